"""A tiny project to run the command line in: four 16x16 pictures of a sphere and a config."""

import json
import shutil
from pathlib import Path

import torch
from PIL import Image

from liftstudio.data.cameras import orbit_cameras

TESTS = Path(__file__).parent
CONFIG = """\
data:
  path: ???
views:
  type: posed-images
  path: ${data.path}
system:
  type: tiny-sphere
test: {frames: 2, size: 16, stills: 1}
log: {every: 2, images_every: 5, tensorboard: false}
checkpoint: {every: 2}
export: {formats: [ply], texture_size: 64}
"""


def write_capture(folder: Path, views: int = 4, size: int = 16) -> None:
    """Write RGBA images of a sphere of radius 0.6 from an orbit, with a transforms.json as in NeRF-synthetic."""
    folder.mkdir(parents=True)
    azimuth = torch.arange(views) * 360.0 / views
    cameras = orbit_cameras(azimuth, torch.full_like(azimuth, 20.0), 3.0, 40.0, size, size)
    origins, directions = cameras.rays()
    closest = -(origins * directions).sum(-1)
    alpha = (origins.square().sum(-1) - closest.square() < 0.6**2).float()[..., None]
    images = torch.cat([torch.tensor([0.8, 0.4, 0.2]).expand(*alpha.shape[:3], 3) * alpha, alpha], dim=-1)
    frames = []
    for index, (image, c2w) in enumerate(zip(images, cameras.c2w, strict=True)):
        Image.fromarray((image * 255).byte().numpy()).save(folder / f"{index}.png")
        frames.append({"file_path": f"{index}.png", "transform_matrix": c2w.tolist()})
    field_of_view = {"camera_angle_x": float(torch.deg2rad(torch.tensor(40.0)))}
    (folder / "transforms.json").write_text(json.dumps({**field_of_view, "frames": frames}))


def make_project(folder: Path, *, extension: bool = False) -> None:
    """Fill a folder with `capture/`, `tiny.yaml` and, optionally, the tiny system as an extension in `custom/`."""
    write_capture(folder / "capture")
    (folder / "tiny.yaml").write_text(CONFIG)
    if extension:
        (folder / "custom" / "tiny").mkdir(parents=True)
        shutil.copy(TESTS / "tiny_system.py", folder / "custom" / "tiny" / "__init__.py")
