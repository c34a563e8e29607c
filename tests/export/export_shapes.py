"""An asymmetric closed surface, a colour by position, and a reader of GLB files after the specification."""

import functools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, tet_grid


@functools.lru_cache(maxsize=4)
def lopsided(resolution: int = 24, noise: float = 0.0, seed: int = 0) -> Mesh:
    """Return a bumpy pear without any symmetry."""
    grid = tet_grid(resolution)
    x, y, z = grid.vertices.unbind(1)
    sdf = torch.sqrt((x / 0.8 - 0.1) ** 2 + (y / (0.5 + 0.2 * x)) ** 2 + ((z - 0.2 * x) / 0.4) ** 2) - 1
    sdf = 0.4 * sdf + 0.03 * torch.sin(7 * x + 3 * y)
    return marching_tetrahedra(
        grid.vertices, sdf + noise * torch.randn(sdf.shape, generator=torch.Generator().manual_seed(seed)), grid
    )


def position_color(points: Tensor) -> Tensor:
    """Return colours with x, y and z from -1 to 1 as red, green and blue."""
    return 0.5 + 0.5 * points


def read_glb(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the JSON of a GLB, and of its only primitive: attributes [V, C], `indices` [3 F], images as `image<i>`."""
    data = path.read_bytes()
    json_length = struct.unpack_from("<I", data, 12)[0]
    tree, binary = json.loads(data[20 : 20 + json_length]), data[28 + json_length :]

    def view(index: int) -> bytes:
        entry = tree["bufferViews"][index]
        return binary[entry.get("byteOffset", 0) :][: entry["byteLength"]]

    def accessor(index: int) -> np.ndarray:
        entry = tree["accessors"][index]
        array = np.frombuffer(view(entry["bufferView"]), {5126: "<f4", 5125: "<u4"}[entry["componentType"]])
        return array.reshape(entry["count"], -1)

    primitive = tree["meshes"][0]["primitives"][0]
    values = {name: accessor(index) for name, index in primitive["attributes"].items()}
    values["indices"] = accessor(primitive["indices"])[:, 0]
    images = {f"image{i}": np.frombuffer(view(e["bufferView"]), np.uint8) for i, e in enumerate(tree.get("images", []))}
    return tree, values | images
