"""Images of a small object from all around, to be written in every format."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from liftstudio.core.config import parse
from liftstudio.data.cameras import Cameras, look_at
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.posed_images import PosedImages

RADIUS = 0.5
CENTER = torch.tensor([0.3, -0.2, 0.4])


@dataclass(frozen=True)
class Shots:
    """RGBA images [V, H, W, 4] uint8 of a sphere (RADIUS, CENTER) with their cameras."""

    rgba: np.ndarray
    cameras: Cameras

    def names(self) -> list[str]:
        return [f"images/{i:03d}.png" for i in range(len(self.rgba))]

    def save_images(self, folder: Path, mode: str = "RGBA") -> None:
        for name, rgba in zip(self.names(), self.rgba, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgba if mode == "RGBA" else np.ascontiguousarray(rgba[..., :3])).save(folder / name)

    def transforms(self) -> dict[str, Any]:
        """Return the content of a nerfstudio transforms.json, with intrinsics per frame."""
        frames = [
            {
                "file_path": name,
                "transform_matrix": c2w.tolist(),
                **{key: float(getattr(self.cameras, attribute)[i]) for key, attribute in INTRINSICS.items()},
            }
            for i, (name, c2w) in enumerate(zip(self.names(), self.cameras.c2w, strict=True))
        ]
        return {
            "camera_model": "OPENCV",
            "w": self.cameras.width,
            "h": self.cameras.height,
            "k1": 0.0,
            "frames": frames,
        }

    def save(self, folder: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
        """Write images and transforms.json, with `change` applied to its data."""
        self.save_images(folder)
        data = self.transforms()
        if change is not None:
            change(data)
        (folder / "transforms.json").write_text(json.dumps(data))
        return folder

    def check(self, views: ReferenceViews, tolerance: float = 1e-5) -> None:
        """Check that the loaded views are these, in this order, up to rounding."""
        rgba = torch.from_numpy(self.rgba).float() / 255
        torch.testing.assert_close(views.masks, rgba[..., 3:])
        torch.testing.assert_close(views.images, rgba[..., :3])
        for name in ("c2w", "fx", "fy", "cx", "cy"):
            wanted = getattr(self.cameras, name)
            torch.testing.assert_close(getattr(views.cameras, name), wanted, atol=tolerance, rtol=tolerance)
        assert (views.cameras.height, views.cameras.width) == (self.cameras.height, self.cameras.width)


INTRINSICS = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy"}


def load(path: Path, **options: Any) -> ReferenceViews:
    """Return the views with `options` as in a config file; by default in the data's own world."""
    return source(path, **options).load()


def source(path: Path, **options: Any) -> PosedImages:
    config = parse({"path": str(path), "normalize": "as-given", **options}, PosedImages.Config, "views")
    return PosedImages(config, device=torch.device("cpu"))


def shoot(count: int = 5, height: int = 24, width: int = 32) -> Shots:
    azimuth = torch.deg2rad(torch.arange(count) * 360.0 / count)
    elevation = torch.deg2rad(torch.linspace(-50, 60, count))
    unit = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    c2w = look_at(CENTER + 3 * unit, CENTER + 0.05 * unit.roll(1, 0))
    values = torch.arange(count) / count
    cameras = Cameras(c2w, 40 + values, 42 - values, 16 + values, 12 - values, height, width)
    origins, directions = cameras.rays()
    along = ((CENTER - origins) * directions).sum(-1, keepdim=True)
    nearest = origins + along * directions - CENTER
    alpha = (nearest.norm(dim=-1, keepdim=True) < RADIUS).float()
    rgba = torch.cat([0.5 + 0.5 * nearest.sin(), alpha], dim=-1)
    return Shots((rgba * 255).round().byte().numpy(), cameras)


def save_masks(shots: Shots, folder: Path, suffix: str = ".png", scale: int = 1) -> None:
    (folder / "masks").mkdir(exist_ok=True)
    for name, rgba in zip(shots.names(), shots.rgba, strict=True):
        Image.fromarray(rgba[..., 3] // scale).save(folder / "masks" / (Path(name).stem + suffix))


def save_rgb(shots: Shots, folder: Path, background: int | None = None) -> None:
    """Replace the RGBA images by RGB ones, over a grey level if one is given."""
    for name, rgba in zip(shots.names(), shots.rgba, strict=True):
        color = rgba[..., :3] if background is None else np.where(rgba[..., 3:] > 0, rgba[..., :3], background)
        Image.fromarray(np.ascontiguousarray(color, np.uint8)).save(folder / name)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((folder / "transforms.json").read_text())
    change(data)
    (folder / "transforms.json").write_text(json.dumps(data))
