"""Toys as users would render them themselves."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import straight_from_white
from liftstudio.synthetic import make_object, render, split


def write_capture(
    path: Path, seed: int, views: int = 5, height: int = 64, width: int = 64, depth: bool = False
) -> Cameras:
    """Write a toy as users would render it: RGBA, not square, off-centre, in other units; return its cameras."""
    generator = torch.Generator().manual_seed(seed)
    azimuth = 360 * torch.rand(views, generator=generator)
    cameras = orbit_cameras(azimuth, 60 * torch.rand(views, generator=generator) - 20, 4.2, 33.8, height, width)
    image = render(make_object("toy", split(seed, "toy", "unseen")), cameras)
    path.mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    for i, c2w in enumerate(cameras.c2w.clone()):
        rgba = torch.cat([straight_from_white(image.rgb[i], image.alpha[i]), image.alpha[i]], dim=-1)
        Image.fromarray((255 * rgba).round().byte().numpy()).save(path / f"{i}.png")
        c2w[:3, 3] = 2.5 * c2w[:3, 3] + torch.tensor([3.0, -1.0, 7.0])
        frames.append({"file_path": f"{i}.png", "transform_matrix": c2w.tolist()})
        if depth:
            millimetres = (1000 * image.depth[i, ..., 0]).round().int().numpy().astype("uint16")
            Image.fromarray(millimetres).save(path / f"{i}_depth.png")
            frames[-1]["depth_path"] = f"{i}_depth.png"
    intrinsics = {"fl_x": float(cameras.fx[0]), "fl_y": float(cameras.fy[0])}
    (path / "transforms.json").write_text(json.dumps({**intrinsics, "frames": frames}))
    return cameras
