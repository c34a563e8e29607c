"""Image grids of the current scene, saved during a run."""

from pathlib import Path

import torch
from torch import Tensor

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import color_depth, color_normal, grid, resize_area, save_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.systems.base import System

VIEWS, PIXELS = 4, 128  # upper limits for the number of views and their size
PICTURES = ("rgb", "albedo", "normal", "depth", "opacity")  # passes that can be shown
DISTANCE, FOV_DEG, ELEVATION_DEG = 4.0, 35.0, 15.0  # of the cameras where there are no reference views


def save_snapshot(path: Path, system: System, views: ReferenceViews | None) -> None:
    """Write an image with a row per view: reference (if there is one) | rgb | normal | opacity.

    Raises:
        OSError: the file cannot be written.
    """
    cameras, references = _sides(views)
    render = system.render(cameras, frozenset({"normal"}))
    assert render.normal is not None
    columns = [references, render.rgb, color_normal(render.normal), render.opacity]
    shown = [column for column in columns if column is not None]
    save_image(path, grid([[column[i] for column in shown] for i in range(len(cameras))]))


@torch.no_grad()
def look(system: System, views: ReferenceViews | None, pixels: int = PIXELS) -> Tensor:
    """Return a render [H, W, 3] over white of the current scene, from the input view or the first reference view."""
    if views is None:
        cameras, _ = _sides(None)
    else:
        cameras = views.cameras[[views.input_view or 0]]
        scale = min(1.0, pixels / max(cameras.height, cameras.width))
        cameras = cameras.resized(max(1, round(cameras.height * scale)), max(1, round(cameras.width * scale)))
    render = system.render(cameras[[0]], frozenset())
    return render.foreground[0] + (1 - render.opacity[0])


def picture(render: Render, name: str) -> Tensor:
    """Return one of PICTURES as images [B, H, W, 1 or 3] in [0, 1], colours over white."""
    if name == "rgb":
        return render.over(1.0)
    image = render.require(name)
    if name == "albedo":
        return image + (1 - render.opacity)
    return {"normal": color_normal, "depth": color_depth, "opacity": lambda same: same}[name](image)


def _sides(views: ReferenceViews | None) -> tuple[Cameras, Tensor | None]:
    """Return a few cameras and, if there are reference views, their images [B, H, W, 3] over white."""
    if views is None:
        azimuth = torch.arange(VIEWS) * 360.0 / VIEWS
        return orbit_cameras(azimuth, torch.full_like(azimuth, ELEVATION_DEG), DISTANCE, FOV_DEG, PIXELS, PIXELS), None
    chosen = views.select(torch.linspace(0, len(views) - 1, min(VIEWS, len(views))).long())
    scale = min(1.0, PIXELS / max(chosen.cameras.height, chosen.cameras.width))
    height, width = max(1, round(chosen.cameras.height * scale)), max(1, round(chosen.cameras.width * scale))
    pictures = torch.stack([resize_area(image, height, width) for image in chosen.over(1.0)])
    return chosen.cameras.resized(height, width), pictures
