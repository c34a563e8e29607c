"""The test stage: a turntable, still passes, a contact sheet, and how close renders and mesh are to the truth."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from liftstudio.assets import input_path
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.errors import InputError
from liftstudio.images import color_depth, color_normal, grid, resize_area, save_image, save_video
from liftstudio.mesh import Mesh
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.lpips import Lpips, load_lpips
from liftstudio.orbits import static
from liftstudio.renderers.base import Render
from liftstudio.systems.base import System
from liftstudio.views.base import ReferenceViews

BATCH = 4  # cameras rendered together
STILL_PASSES = frozenset({"albedo", "normal", "depth"})
DEFAULT_DISTANCE, DEFAULT_FOV_DEG = 4.0, 35.0  # of the turntable where there are no reference views
SHEET_PIXELS = 12_000_000  # at most, in a contact sheet
SHEET_CELL = 256  # pixels; the longest side of an image in a contact sheet, at most


@dataclass
class TestConfig:
    frames: int = 60  # frames of the turntable video
    fps: float = 30.0  # frames of that video per second
    size: int = 256  # height and width of turntable and stills, pixels
    elevation_deg: float = 20.0  # of their cameras, degrees above the horizon
    stills: int = 4  # azimuths of the still passes, evenly around the object from azimuth 0
    lpips_weights: str = ""  # folder with the published weight files of LPIPS; empty: LPIPS is not measured
    lpips_network: Literal["alexnet", "vgg16"] = "alexnet"  # network of LPIPS; alexnet is the usual one for reports

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 16), ("stills", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: wanted {least} or more, got {getattr(self, name)}")
        if not 0 < self.fps <= 240:
            raise InputError(f"fps: wanted above 0 to 240 frames per second, got {self.fps}")
        if abs(self.elevation_deg) > 89:
            raise InputError(f"elevation_deg: wanted -89 to 89 degrees, got {self.elevation_deg}")


def check_test(config: TestConfig) -> None:
    """Try what the test stage will need from outside, before the long work.

    Raises:
        InputError: LPIPS weights are asked for, and missing or not those of the network.
    """
    _lpips(config)


def evaluate(system: System, views: ReferenceViews | None, folder: Path, config: TestConfig) -> dict[str, Any]:
    """Everything the test stage writes into `folder`: turntable.mp4, stills/, and with views contact_sheet.png.

    Returns the metrics of `image_metrics`, empty without views; images are compared over white.

    Raises:
        InputError: faulty LPIPS weights.
        OSError: the folder cannot be written.
    """
    orbit = turntable_cameras(None if views is None else views.cameras, config)
    save_video(folder / "turntable.mp4", _white_frames(system, orbit), config.fps)
    save_stills(system, orbit, folder / "stills", config.stills)
    if views is None:
        return {}
    renders = torch.cat([render.over(1.0).clamp(0, 1) for render in _renders(system, views.cameras)])
    metrics = image_metrics(renders, views, _lpips(config))
    save_image(folder / "contact_sheet.png", contact_sheet(renders, views, metrics))
    return metrics


def turntable_cameras(references: Cameras | None, config: TestConfig) -> Cameras:
    """A round at one elevation; distance and field of view are the reference cameras' means where there are any."""
    distance, fov_deg = DEFAULT_DISTANCE, DEFAULT_FOV_DEG
    if references is not None:
        distance = float(references.distance.mean())
        half_x, half_y = 0.5 * references.width / references.fx, 0.5 * references.height / references.fy
        fov_deg = 2 * math.degrees(math.atan(max(float(half_x.mean()), float(half_y.mean()))))
    return orbit_cameras(*static(config.frames, config.elevation_deg), distance, fov_deg, config.size, config.size)


def save_stills(system: System, orbit: Cameras, folder: Path, count: int) -> None:
    """Write `<azimuth>_<pass>.png` (rgb, albedo, normal, depth, mask) of `count` cameras evenly on an orbit."""
    count = min(count, len(orbit))
    chosen = orbit[[i * len(orbit) // count - 1 for i in range(count)]]  # -1: an orbit's last camera is at azimuth 0
    azimuths = [f"{round(azimuth) % 360:03d}" for azimuth in chosen.azimuth_deg.tolist()]
    for start, render in zip(range(0, count, BATCH), _renders(system, chosen, STILL_PASSES), strict=True):
        for name, images in _pictures(render).items():
            for azimuth, image in zip(azimuths[start : start + BATCH], images, strict=True):
                save_image(folder / f"{azimuth}_{name}.png", image)


def image_metrics(renders: Tensor, views: ReferenceViews, lpips: Lpips | None = None) -> dict[str, Any]:
    """PSNR (dB), SSIM and, with weights, LPIPS of renders [V, H, W, 3] over white, in numbers that JSON can hold.

    Returns {"training": means, "held_out": means (only with such views), "views": [per view]}. PSNR is capped at
    100 dB, as equal images have no finite one; SSIM is None for images below 6 pixels, LPIPS below 32.
    """
    rows = [
        {"name": name, "held_out": held_out, **_compare(renders[i : i + 1], views.select([i]).over(1.0), lpips)}
        for i, (name, held_out) in enumerate(zip(views.names, views.held_out.tolist(), strict=True))
    ]
    groups = {"training": False, "held_out": True}
    split = {group: [row for row in rows if row["held_out"] == held_out] for group, held_out in groups.items()}
    return {**{group: _means(chosen) for group, chosen in split.items() if chosen}, "views": rows}


def contact_sheet(renders: Tensor, views: ReferenceViews, metrics: dict[str, Any]) -> Tensor:
    """[H, W, 3]: reference | render | absolute difference over white for each view, in blocks side by side.

    `metrics`: of `image_metrics`, for the labels.
    """
    height, width = renders.shape[1:3]
    cell = min(SHEET_CELL, math.isqrt(SHEET_PIXELS // (3 * len(views))))
    scale = min(1.0, cell / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows, labels = [], []
    for i, (render, row) in enumerate(zip(renders, metrics["views"], strict=True)):
        truth = views.select([i]).over(1.0)[0]
        rows.append([resize_area(image, *size) for image in (truth, render, (render - truth).abs())])
        title = Path(row["name"]).name + (" (held out)" if row["held_out"] else "")
        labels.append([title, f"render {row['psnr']:.1f} dB", "difference"])
    blocks = max(1, round(math.sqrt(len(rows) * size[0] / (3 * size[1]))))
    per_block = math.ceil(len(rows) / blocks)
    starts = range(0, len(rows), per_block)
    return grid([[grid(rows[s : s + per_block], labels[s : s + per_block]) for s in starts]])


def evaluate_mesh(exported: Path, truth: Path, data_from_world: Tensor) -> dict[str, float | None]:
    """Distances of an exported mesh file to the true one, in the world of the data (see `mesh_metrics`).

    data_from_world: [4, 4] from `ViewSource.data_from_world`; the exported mesh is in the world of the run.

    Raises:
        InputError: a file is missing or holds no mesh.
    """
    from liftstudio.mesh_io import read_mesh
    from liftstudio.metrics.meshes import mesh_metrics

    mesh = read_mesh(exported)
    vertices = mesh.vertices @ data_from_world[:3, :3].T + data_from_world[:3, 3]
    return mesh_metrics(Mesh(vertices, mesh.faces), read_mesh(truth))


def _renders(system: System, cameras: Cameras, passes: frozenset[str] = frozenset()) -> Iterator[Render]:
    for start in range(0, len(cameras), BATCH):
        yield system.render(cameras[start : start + BATCH], passes)


def _white_frames(system: System, cameras: Cameras) -> Iterator[Tensor]:
    for render in _renders(system, cameras):
        yield from render.over(1.0)


def _pictures(render: Render) -> dict[str, Tensor]:
    """[B, H, W, 1 or 3] pictures of a render with STILL_PASSES."""
    assert render.albedo is not None and render.normal is not None and render.depth is not None
    return {
        "rgb": render.over(1.0),
        "albedo": render.albedo + (1 - render.opacity),
        "normal": color_normal(render.normal),
        "depth": color_depth(render.depth),
        "mask": render.opacity,
    }


def _compare(render: Tensor, truth: Tensor, lpips: Lpips | None) -> dict[str, float | None]:
    least = min(render.shape[1:3])
    values: dict[str, float | None] = {
        "psnr": min(float(psnr(render, truth)), 100.0),
        "ssim": float(ssim(render, truth)) if least >= 6 else None,
    }
    if lpips is not None:
        with torch.no_grad():
            values["lpips"] = float(lpips(render, truth)) if least >= 32 else None
    return values


def _means(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    names = [name for name in rows[0] if name not in ("name", "held_out")]
    return {n: None if rows[0][n] is None else sum(row[n] for row in rows) / len(rows) for n in names}


def _lpips(config: TestConfig) -> Lpips | None:
    return load_lpips(input_path(config.lpips_weights), config.lpips_network) if config.lpips_weights else None
