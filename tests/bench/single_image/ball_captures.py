"""Captures of balls, and benchmark runs on them."""

import json
import math
from pathlib import Path

import torch
import trimesh
from helpers.tiny_prior import ball

from bench import runs, single_image
from bench.single_image_tasks import Setting
from liftstudio.cli import command_line
from liftstudio.core import assets
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import save_image

MARIO = assets.packaged("assets") / "demo" / "mario"
PRIOR = ("prior.type=tiny-ball", "prior.weights=ball.safetensors", "views.steps=3")
FOV_DEG = 2 * math.degrees(math.atan(128 / 280))


def write_capture(folder: Path, *, mesh: bool, changes: dict | None = None, size: int = 64) -> Path:
    """Write six views of a ball of radius 0.5 at several elevations, 60 degrees apart, and optionally its mesh."""
    (folder / "images").mkdir(parents=True)
    angles = 60.0 * torch.arange(6), torch.tensor([30.0, 0.0, 60.0, -20.0, 30.0, 0.0])
    cameras = orbit_cameras(*angles, 1.5, FOV_DEG, size, size)
    images, masks = ball(cameras, 0.5)
    frames = []
    for index, (image, mask, c2w) in enumerate(zip(images, masks, cameras.c2w, strict=True)):
        save_image(folder / "images" / f"{index:03d}.png", torch.cat([image, mask], dim=-1))
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": c2w.tolist()})
    lens = {"fl_x": size * 70 / 64, "fl_y": size * 70 / 64, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    data = {**lens, "frames": frames, **(changes or {})}
    if mesh:
        trimesh.creation.icosphere(3, 0.5).export(folder / "mesh.ply")
        data["mesh"] = "mesh.ply"
    (folder / "transforms.json").write_text(json.dumps(data))
    return folder


def measure(*words: str) -> list[dict]:
    """Return the rows of a successful benchmark run."""
    assert single_image.main(["objects", "--results", "rows.jsonl", *words]) == command_line.DONE
    return runs.read_rows(Path("rows.jsonl"))


def chosen(rows: list[dict], **wanted: object) -> dict:
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row


def setting_of(overrides: tuple[str, ...]) -> Setting:
    return Setting("sv3d-masked-sds", overrides)
