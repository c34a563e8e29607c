"""Saving reference views for this and other tools: RGBA images, cameras, a video, a contact sheet."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import grid, resize_lanczos, save_image, save_video
from liftstudio.data.reference_views import ReferenceViews

FPS = 7  # an orbit of 21 frames takes 3 seconds
SHEET_CELL = 192  # pixels along the longer side of an image in the contact sheet


def save_views(folder: Path, views: ReferenceViews) -> None:
    """Write `000.png`... (RGBA, straight colour), orbit.mp4, contact_sheet.png and, last, transforms.json.

    If the views were chosen from several sets, instances.png shows all sets.

    Photographs are written without the padding around them. An estimated elevation of the input image and the error to
    expect are in transforms.json, too.

    The video starts at the input image, if it is among the views, and leaves out further input images. Image files are
    numbered, whatever the views' names are. `posed-images` reads the folder back; with `normalize: as-given`, in the
    same world. Depth and normal maps are not written.

    Raises:
        OSError: the folder cannot be written.
    """
    files = [f"{index:03d}.png" for index in range(len(views))]
    for index, (name, image, mask) in enumerate(zip(files, views.images, views.masks, strict=True)):
        save_image(folder / name, torch.cat([image, mask], dim=-1)[views.window(index)])
    orbit = views.select([index for index in range(len(views)) if index not in views.input_views[1:]])
    save_video(folder / "orbit.mp4", orbit.over(1.0).roll(-(orbit.input_view or 0), dims=0), FPS)
    save_image(folder / "contact_sheet.png", _contact_sheet(views.over(1.0), views))
    if views.sheet is not None:
        save_image(folder / "instances.png", views.sheet)
    atomic_write(folder / "transforms.json", json.dumps(_transforms(files, views), indent=1) + "\n")


def _transforms(files: list[str], views: ReferenceViews) -> dict[str, Any]:
    cameras = views.cameras
    size = {"w": cameras.width, "h": cameras.height}
    frames = [{"file_path": name, **camera} for name, camera in zip(files, _pinholes(cameras), strict=True)]
    if views.windows is not None:
        size, windows = {}, views.windows.tolist()
        frames = [_without_padding(frame, window) for frame, window in zip(frames, windows, strict=True)]
    held_out = [name for name, is_held_out in zip(files, views.held_out.tolist(), strict=True) if is_held_out]
    estimate = views.elevation_estimate
    found = {} if estimate is None else dict(zip(("elevation_deg", "elevation_error_deg"), estimate, strict=True))
    return {"camera_model": "PINHOLE", **size, **found, "test_filenames": held_out, "frames": frames}


def _pinholes(cameras: Cameras) -> list[dict[str, Any]]:
    names = {"fl_x": cameras.fx, "fl_y": cameras.fy, "cx": cameras.cx, "cy": cameras.cy}
    columns = {**{name: values.tolist() for name, values in names.items()}, "transform_matrix": cameras.c2w.tolist()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _without_padding(frame: dict[str, Any], window: list[int]) -> dict[str, Any]:
    left, top, right, bottom = window
    return {**frame, "w": right - left, "h": bottom - top, "cx": frame["cx"] - left, "cy": frame["cy"] - top}


def _contact_sheet(over_white: Tensor, views: ReferenceViews) -> Tensor:
    """Return an image [H, W, 3] of all views in order, each labelled with its angles."""
    scale = SHEET_CELL / max(over_white.shape[1:3])
    height, width = (max(1, round(side * scale)) for side in over_white.shape[1:3])
    cells = [resize_lanczos(image, height, width) for image in over_white]
    angles = zip(views.cameras.azimuth_deg.tolist(), views.cameras.elevation_deg.tolist(), strict=True)
    labels = [f"{index:03d}  az {a:.0f}  el {e:.0f}" for index, (a, e) in enumerate(angles)]
    for view in views.input_views:
        labels[view] += "  input"
    columns = math.ceil(math.sqrt(len(cells)))
    starts = range(0, len(cells), columns)
    return grid([cells[s : s + columns] for s in starts], [labels[s : s + columns] for s in starts])
