"""A drawing of the cameras around the object: where the picture was taken, and where the views will be seen from."""

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.assets import find_config
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.run.config import load_without_input
from liftstudio.studio.pipeline import as_words
from liftstudio.views.normalization import HALF_SIDE
from liftstudio.views.prior_views import PriorViews

WIDTH, HEIGHT = 360, 250  # of the drawing, user units
EYE_DEG = (-50.0, 16.0)  # azimuth and elevation from which it is drawn
EYE_DISTANCE, EYE_FOV_DEG = 3.4, 36.0  # the first relative to the cameras' distance
FRUSTUM = 0.24  # length of the shown part of the view, relative to the same


def draw_orbit(config: str, overrides: Mapping[str, Any], elevation_deg: float, picture: str) -> str:
    """Return an SVG of a config's cameras, with a line that says what they are; empty if it has no input image.

    overrides: options of the config. elevation_deg: of the camera of the picture.
    picture: address of the object's image, which is drawn in the middle.

    Raises:
        InputError: an option is faulty, or the views cannot be at that elevation.
    """
    words = as_words({**overrides, "views.elevation_deg": elevation_deg})
    block = load_without_input(find_config(Path(config)), words).views
    source = block.build(device=torch.device("cpu")) if block else None
    if not isinstance(source, PriorViews):
        return ""
    distance, fov_deg = source.config.distance, source.config.fov_deg
    views = orbit_cameras(*source.angles(), distance, fov_deg, 2, 2)
    camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation_deg]), distance, fov_deg, 2, 2)
    said = f"the picture's camera at {elevation_deg:g}°, and the {len(views.c2w)} views"
    return f'<figure class="ls-orbit">{_svg(camera, views, picture, said)}<p>{said}</p></figure>'


def _svg(camera: Cameras, views: Cameras, picture: str, said: str) -> str:
    """Return the drawing: what is behind the object, the object, what is before it."""
    distance = float(camera.c2w[0, :3, 3].norm())
    azimuth_deg, elevation_deg = torch.tensor(EYE_DEG)[:, None]
    eye = orbit_cameras(azimuth_deg, elevation_deg, EYE_DISTANCE * distance, EYE_FOV_DEG, HEIGHT, WIDTH)
    place = camera.c2w[0, :3, 3]
    turn = torch.linspace(0, 2 * torch.pi, 97)
    circle = torch.stack([turn.cos(), turn.sin(), 0 * turn], dim=-1)
    radius, height = float(place[:2].norm()), torch.tensor([0.0, 0.0, float(place[2])])
    rise = torch.linspace(0, 1, 25)[:, None] * torch.atan2(place[2], torch.tensor(radius))
    arc = distance * torch.cat([rise.cos(), 0 * rise, rise.sin()], dim=-1)
    dots = views.c2w[:, :3, 3]
    path = torch.cat([dots[-1:], dots])
    halves = [
        "".join(
            [
                *_lines(eye, distance * circle, front, "ls-horizon"),
                *_lines(eye, radius * circle + height, front, "ls-ghost"),
                *_lines(eye, path, front, "ls-path"),
                *_dots(eye, dots, front),
            ]
        )
        for front in (False, True)
    ]
    x, y = _seen(eye, torch.zeros(1, 3))[0]
    side = 2 * HALF_SIDE * float(eye.fy[0]) / (EYE_DISTANCE * distance)
    image = f'<image href="{html.escape(picture)}" x="{x - side:.1f}" y="{y - side:.1f}" width="{2 * side:.1f}"/>'
    pose = (
        _line(_seen(eye, arc), "ls-rise")
        + _line(_seen(eye, torch.stack([torch.zeros(3), arc[0]])), "ls-horizon")
        + _line(_seen(eye, torch.stack([torch.zeros(3), place])), "ls-rise")
    )
    behind, before = (pose, _frustum(eye, camera)) if _depth(eye, place) <= 0 else (_frustum(eye, camera) + pose, "")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(said)}">'
        f"{halves[0]}{behind}{image}{halves[1]}{before}</svg>"
    )


def _frustum(eye: Cameras, camera: Cameras) -> str:
    """Return the camera as a pyramid that opens towards the object."""
    depth = FRUSTUM * float(camera.c2w[0, :3, 3].norm())
    half = depth / float(camera.fy[0])  # images of 2 x 2 pixels: from the middle to the border is one
    corners = torch.tensor([[-half, -half], [half, -half], [half, half], [-half, half]])
    local = torch.cat([corners, torch.full((4, 1), -depth)], dim=-1)
    rotation, place = camera.c2w[0, :3, :3], camera.c2w[0, :3, 3]
    end, tip = _seen(eye, local @ rotation.T + place), _seen(eye, place[None])
    edges = "".join(_line([*tip, corner], "ls-camera") for corner in end)
    return f'<polygon class="ls-camera" points="{_points(end)}"/>{edges}'


def _lines(eye: Cameras, points: Tensor, front: bool, style: str) -> Iterable[str]:
    """Yield the parts of a line through points that are before the object, or those behind it."""
    seen, near = _seen(eye, points), _depth(eye, points) <= 0
    run = list[tuple[float, float]]()
    for index in range(len(seen) - 1):
        if bool(near[index] & near[index + 1]) == front:
            run = run or [seen[index]]
            run.append(seen[index + 1])
        elif run:
            yield _line(run, style)
            run = []
    if run:
        yield _line(run, style)


def _dots(eye: Cameras, points: Tensor, front: bool) -> Iterable[str]:
    for (x, y), near in zip(_seen(eye, points), _depth(eye, points) <= 0, strict=True):
        if bool(near) == front:
            yield f'<circle class="ls-view" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'


def _line(points: Iterable[tuple[float, float]], style: str) -> str:
    return f'<polyline class="{style}" points="{_points(points)}"/>'


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _seen(eye: Cameras, points: Tensor) -> list[tuple[float, float]]:
    """Return where world points [N, 3] are in the drawing."""
    return [(x, y) for x, y in eye.project(points)[0][0].tolist()]


def _depth(eye: Cameras, points: Tensor) -> Tensor:
    """Return how far world points [..., 3] are behind the plane through the object that faces the eye."""
    return points @ -eye.c2w[0, :3, 2]
