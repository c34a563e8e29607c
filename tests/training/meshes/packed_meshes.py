"""The bundled test packs, and folders made of them."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.paths import OBJECTS_PACK
from helpers.seeds import fresh_seed

from liftstudio.core.config import parse
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.meshes.packs import Pack, StoredMesh
from liftstudio.training.meshes.source import MeshObjects

SEED = fresh_seed(__name__, bits=24)
FOLDER = OBJECTS_PACK
COLUMNS = ("id", "pack", "licence", "author", "title", "source")
WIDE_RIG = {
    "input_azimuth_deg": 180, "input_elevation_deg": [-20, 60], "amplitude_deg": 20, "lens_share": 1,
    "lens_fov_deg": [25, 60], "roll_deg": 15, "shift": 0.1,
}  # fmt: skip


def write_folder(folder: Path, packs: list[Pack], **columns: str) -> Path:
    """Write a folder with packs whose objects are CC0 unless `columns` says otherwise."""
    folder.mkdir(exist_ok=True)
    with (folder / "catalog.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for one in packs:
            np.savez(folder / f"{one.name}.npz", ids=np.array(one.ids), **one.arrays)
            writer.writerows({"id": name, "pack": one.name, "licence": "CC0", **columns} for name in one.ids)
    return folder


def open_meshes(folder: Path = FOLDER, **options: Any) -> MeshObjects:
    return MeshObjects(parse({"objects": str(folder), "resolution": 32, **options}, DataConfig))


def variants(mesh: StoredMesh, count: int) -> list[StoredMesh]:
    """Return the mesh under other names."""
    return [replace(mesh, name=f"{mesh.name}-{number}") for number in range(count)]


def turn(angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def same(a: Sample, b: Sample) -> bool:
    pairs = [(a.input_image, b.input_image), (a.images, b.images), (a.rig.input_camera.c2w, b.rig.input_camera.c2w)]
    return all(torch.equal(*pair) for pair in pairs)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()
