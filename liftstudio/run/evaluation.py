"""The test stage: turntable, stills, contact sheet, and metrics of renders and mesh against the ground truth."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import grid, resize_area, save_image, save_video
from liftstudio.data.orbits import static
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.export.placement import Placement, read_in_world
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.lpips import Lpips, load_lpips
from liftstudio.run.config import EvaluationConfig, TruthConfig
from liftstudio.run.snapshots import PICTURES, picture
from liftstudio.systems.base import System

if TYPE_CHECKING:
    from liftstudio.metrics.novel_views import Judges
    from liftstudio.run.truth import Truth

BATCH = 4  # cameras rendered together
STILL_PASSES = frozenset({"albedo", "normal", "depth"})
DEFAULT_DISTANCE, DEFAULT_FOV_DEG = 4.0, 35.0  # of the turntable's cameras where there are no reference views
SHEET_PIXELS = 12_000_000  # upper limit for a contact sheet
SHEET_CELL = 256  # pixels; upper limit for the longest side of an image in a contact sheet


def check_test(config: EvaluationConfig) -> None:
    """Check the external files that the test stage needs, before the long work.

    Raises:
        InputError: the LPIPS weights are missing or belong to another network.
    """
    _lpips(config)


def evaluate(system: System, views: ReferenceViews | None, folder: Path, config: EvaluationConfig) -> dict[str, Any]:
    """Write turntable.mp4, stills/ and, if there are views, contact_sheet.png to `folder`.

    Returns the result of `image_metrics`, empty without views; images are compared composited over white.

    Raises:
        InputError: invalid LPIPS weights.
        OSError: the folder cannot be written.
    """
    orbit = turntable_cameras(views, config)
    save_turntable(folder / "turntable.mp4", system, orbit, config)
    save_stills(system, orbit, folder / "stills", config.stills)
    if views is None:
        return {}
    renders = torch.cat([render.over(1.0).clamp(0, 1) for render in _renders(system, views.cameras)])
    metrics = image_metrics(renders, views, _lpips(config))
    save_image(folder / "contact_sheet.png", contact_sheet(renders, views, metrics))
    return metrics


def save_turntable(path: Path, system: System, orbit: Cameras, config: EvaluationConfig) -> None:
    """Write a video of the system over white, a frame for each camera of the orbit."""
    save_video(path, _white_frames(system, orbit), config.fps)


def turntable_cameras(views: ReferenceViews | None, config: EvaluationConfig) -> Cameras:
    """Return a full orbit at one elevation, with the mean distance and field of view of `views`, if given."""
    distance, fov_deg = DEFAULT_DISTANCE, DEFAULT_FOV_DEG
    if views is not None:
        cameras, (width, height) = views.cameras, views.sizes().unbind(-1)
        distance = float(cameras.distance.mean())
        half_x, half_y = 0.5 * width / cameras.fx, 0.5 * height / cameras.fy
        fov_deg = 2 * math.degrees(math.atan(max(float(half_x.mean()), float(half_y.mean()))))
    return orbit_cameras(*static(config.frames, config.elevation_deg), distance, fov_deg, config.size, config.size)


def save_stills(system: System, orbit: Cameras, folder: Path, count: int) -> None:
    """Write `<azimuth>_<pass>.png` (rgb, albedo, normal, depth, mask) for `count` cameras evenly spaced on an orbit."""
    count = min(count, len(orbit))
    chosen = orbit[[i * len(orbit) // count - 1 for i in range(count)]]  # -1: an orbit's last camera is at azimuth 0
    azimuths = [f"{round(azimuth) % 360:03d}" for azimuth in chosen.azimuth_deg.tolist()]
    for start, render in zip(range(0, count, BATCH), _renders(system, chosen, STILL_PASSES), strict=True):
        for name, images in _pictures(render).items():
            for azimuth, image in zip(azimuths[start : start + BATCH], images, strict=True):
                save_image(folder / f"{azimuth}_{name}.png", image)


def image_metrics(renders: Tensor, views: ReferenceViews, lpips: Lpips | None = None) -> dict[str, Any]:
    """Return PSNR (dB), SSIM and, with weights, LPIPS of renders [V, H, W, 3] over white, as plain data for JSON.

    The result is {"training": means, "held_out": means, "views": [per view]}; a group without views is left out. PSNR
    is capped at 100 dB, since that of equal images is infinite; SSIM is None for images below 6 pixels, LPIPS below 32.
    The padding of photographs is left out.
    """
    rows = [
        {"name": name, "held_out": held_out, **_compare(render[None], truth[None], lpips)}
        for name, held_out, (truth, render) in zip(
            views.names, views.held_out.tolist(), _pairs(renders, views), strict=True
        )
    ]
    groups = {"training": False, "held_out": True}
    split = {group: [row for row in rows if row["held_out"] == held_out] for group, held_out in groups.items()}
    return {**{group: _means(chosen) for group, chosen in split.items() if chosen}, "views": rows}


def contact_sheet(renders: Tensor, views: ReferenceViews, metrics: dict[str, Any]) -> Tensor:
    """Return an image [H, W, 3] with a row per view: reference | render | absolute difference, all over white.

    The rows are arranged in blocks side by side. `metrics`: the result of `image_metrics`, for the labels.
    """
    height, width = renders.shape[1:3]
    cell = min(SHEET_CELL, math.isqrt(SHEET_PIXELS // (3 * len(views))))
    scale = min(1.0, cell / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rows, labels = [], []
    for (truth, render), row in zip(_pairs(renders, views), metrics["views"], strict=True):
        own_size = [max(1, round(side * scale)) for side in render.shape[:2]]
        rows.append([resize_area(image, *own_size) for image in (truth, render, (render - truth).abs())])
        title = Path(row["name"]).name + (" (held out)" if row["held_out"] else "")
        labels.append([title, f"render {row['psnr']:.1f} dB", "difference"])
    blocks = max(1, round(math.sqrt(len(rows) * size[0] / (3 * size[1]))))
    per_block = math.ceil(len(rows) / blocks)
    starts = range(0, len(rows), per_block)
    return grid([[grid(rows[s : s + per_block], labels[s : s + per_block]) for s in starts]])


def load_truth_of(config: TruthConfig, views: ComponentSpec | None) -> "Truth | None":
    """Return the ground truth of a run from one picture, in the run's world; None if the config gives none.

    views: the `views` of the run's config, from which the picture's camera and the centre of its frame are known.

    Raises:
        InputError: files are missing or invalid, the named view does not exist, or the run is not from one picture.
    """
    if not config.views and not config.mesh:
        return None
    from liftstudio.run.truth import load_truth
    from liftstudio.views.prior_views import PriorViews

    source = None if views is None else views.build(device=torch.device("cpu"))
    if views is None or not isinstance(source, PriorViews):
        raise InputError("truth: applies to runs from one picture only; for captures use views.mesh and views.held_out")
    picture = source.input_image()
    height, width = picture.rgb.shape[:2]
    middle = picture.left + picture.side / 2 - width / 2, picture.top + picture.side / 2 - height / 2
    x, y = (0.5 + offset / max(height, width) for offset in middle)
    return load_truth(config, getattr(views.options, "azimuth_deg", 0.0), (x, y))


def compare_renders(
    system: System, truth: ReferenceViews, config: EvaluationConfig, noun: str | None, device: torch.device
) -> dict[str, Any]:
    """Return metrics of the system's renders at the cameras of the true views except the input view.

    See `compare_views`. Larger views are reduced to 256 pixels. The CD score is computed from these views and `noun`,
    what the object is called (None: unknown, no score); `contextual_by` names the features of the contextual distances.

    Raises:
        InputError: see `load_judges`.
    """
    from liftstudio.metrics.diversity import cd_score
    from liftstudio.metrics.novel_views import PIXELS, compare_views
    from liftstudio.run.truth import resized

    judges, truth = load_judges(config, noun, device), resized(truth, PIXELS)
    renders = [(render.over(1.0).clamp(0, 1), render.opacity) for render in _renders(system, truth.cameras)]
    images, masks = (torch.cat(each).cpu() for each in zip(*renders, strict=True))
    row: dict[str, Any] = dict(compare_views(images, masks, truth, judges))
    if "cd_variance" in row:
        row["cd_score"] = cd_score(*(torch.tensor(row[f"cd_{term}"]) for term in ("distance", "variance")))
    return row | {"contextual_by": judges.features.name}


def compare_exported(exported: Path, truth: "Truth", placement: Placement | None = None) -> dict[str, float | None]:
    """Return the distances of an exported mesh file to the true mesh (see `mesh_metrics`).

    placement: of the run's world in the file; None: the file is in the run's world.

    Raises:
        InputError: the file is missing or contains no mesh.
    """
    from liftstudio.data.mesh_io import read_mesh
    from liftstudio.run.truth import compare_mesh

    return compare_mesh(read_in_world(exported, placement) if placement else read_mesh(exported), truth)


def load_judges(config: EvaluationConfig, noun: str | None, device: torch.device) -> "Judges":
    """Return the networks whose weights the config gives, for the comparison of novel views with the ground truth.

    noun: what the object is called, for the CD score.

    Raises:
        InputError: missing or invalid weights; RAFT is requested and torchvision is missing.
    """
    from liftstudio.metrics.contextual import load_features
    from liftstudio.metrics.embeddings import Clip, object_prompt
    from liftstudio.metrics.flow import load_raft
    from liftstudio.metrics.novel_views import CdScore, Judges

    contextual, clip, raft = (
        str(input_path(path)) if path else ""
        for path in (config.contextual_weights, config.clip_weights, config.raft_weights)
    )
    return Judges(
        lpips=_lpips(config),
        clip=Clip(clip, device) if clip else None,
        text=object_prompt(noun) if noun else "",
        cd=CdScore(config.cd_form, config.cd_reference),
        features=load_features(contextual),  # on the CPU, where the views are
        flow=load_raft(raft, device) if raft else None,
    )


def _renders(system: System, cameras: Cameras, passes: frozenset[str] = frozenset()) -> Iterator[Render]:
    for start in range(0, len(cameras), BATCH):
        yield system.render(cameras[start : start + BATCH], passes)


def _white_frames(system: System, cameras: Cameras) -> Iterator[Tensor]:
    for render in _renders(system, cameras):
        yield from render.over(1.0)


def _pictures(render: Render) -> dict[str, Tensor]:
    """Return name -> images [B, H, W, 1 or 3] of a render with STILL_PASSES."""
    return {{"opacity": "mask"}.get(name, name): picture(render, name) for name in PICTURES}


def _pairs(renders: Tensor, views: ReferenceViews) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each reference image over white and its render, [H, W, 3] without padding."""
    for index, render in enumerate(renders):
        window = views.window(index)
        yield views.select([index]).over(1.0)[0][window], render[window]


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
    known = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}


def _lpips(config: EvaluationConfig) -> Lpips | None:
    return load_lpips(input_path(config.lpips_weights), config.lpips_network) if config.lpips_weights else None
