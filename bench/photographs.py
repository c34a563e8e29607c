"""Photograph-like pictures with known masks: an object composed over a seeded, procedural background."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.data.images import resize_lanczos
from liftstudio.views.silhouettes import bounding_box

HEIGHT, WIDTH = 480, 640  # pixels of a picture

Floats = NDArray[np.float32]
Random = np.random.Generator


@dataclass(frozen=True)
class Photograph:
    """A picture [H, W, 3] and the coverage [H, W, 1] of the object in it, float32 in [0, 1]."""

    rgb: Tensor
    alpha: Tensor


def photograph(rgb: Tensor, alpha: Tensor, background: str, seed: int) -> Photograph:
    """Return an object, of straight colour [h, w, 3] and alpha [h, w, 1], photographed before a background.

    Its longer side takes 50 to 70 % of the picture's height, and it is up to 6 % of the width off the middle. It casts
    a soft contact shadow. The picture has uneven light, noise of a sensor, and the blocks of a JPEG file.

    background: a name in `BACKGROUNDS`.
    """
    random = np.random.default_rng(seed)
    coverage = np.zeros((HEIGHT, WIDTH, 1), np.float32)
    color = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    piece = _scaled(rgb, alpha, HEIGHT * random.uniform(0.5, 0.7))
    height, width = piece.shape[:2]
    top = (HEIGHT - height) // 2 + int(HEIGHT * random.uniform(-0.06, 0.06))
    left = (WIDTH - width) // 2 + int(WIDTH * random.uniform(-0.06, 0.06))
    coverage[top : top + height, left : left + width] = piece[..., 3:]
    color[top : top + height, left : left + width] = piece[..., :3]
    behind = BACKGROUNDS[background](random) * (1 - _shadow(coverage, random))
    picture = color + (1 - coverage) * behind
    picture *= _light(random)
    return Photograph(torch.from_numpy(_taken(picture, random)), torch.from_numpy(coverage))


def _scaled(rgb: Tensor, alpha: Tensor, longer: float) -> Floats:
    """Return the object's bounding box with premultiplied colour and alpha [h, w, 4], its longer side as given."""
    box = bounding_box(alpha)
    assert box is not None
    left, top, right, bottom = box
    scale = longer / max(right - left, bottom - top)
    height, width = round((bottom - top) * scale), round((right - left) * scale)
    premultiplied = torch.cat([rgb * alpha, alpha], dim=-1)[top:bottom, left:right]
    piece = resize_lanczos(premultiplied, height, width).clamp(0, 1).numpy()
    piece[..., :3] = np.minimum(piece[..., :3], piece[..., 3:])
    return piece


def _shadow(coverage: Floats, random: Random) -> Floats:
    """Return the darkening [H, W, 1] by the object: close to its foot, and a wider one to a side."""
    rows = np.flatnonzero(coverage.max((1, 2)) > 0.5)
    foot = coverage[..., 0].copy()
    foot[: rows[-1] - (rows[-1] - rows[0]) // 4] = 0
    shift = np.array([[1, 0, random.uniform(-15, 15)], [0, 1, random.uniform(2, 8)]], np.float32)
    moved = cv2.warpAffine(foot, shift, (WIDTH, HEIGHT))
    near, far = (cv2.GaussianBlur(moved, (0, 0), sigma) for sigma in (random.uniform(4, 7), random.uniform(15, 30)))
    return (random.uniform(0.2, 0.4) * near + random.uniform(0.1, 0.3) * far)[..., None]


def _light(random: Random) -> Floats:
    """Return a factor [H, W, 1]: brighter towards one side, darker in the corners."""
    y, x = _grid()
    angle = random.uniform(0, 2 * np.pi)
    tilt = 1 + random.uniform(0, 0.15) * (np.cos(angle) * x + np.sin(angle) * y)
    return (tilt * (1 - random.uniform(0, 0.12) * (x**2 + y**2)))[..., None]


def _taken(picture: Floats, random: Random) -> Floats:
    """Return a picture as a camera stores it: slightly soft, noisy, and compressed."""
    picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.5, 0.9))
    picture = picture + random.uniform(0.008, 0.02) * random.standard_normal(picture.shape, np.float32)
    pixels = np.round(picture.clip(0, 1) * 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(80, 95))]
    coded = cv2.imencode(".jpg", pixels[..., ::-1], quality)[1]
    decoded: NDArray[np.uint8] = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded[..., ::-1]).astype(np.float32) / np.float32(255)


def _grid() -> tuple[Floats, Floats]:
    """Return y [H, W] and x [H, W] in [-1, 1]."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return y.astype(np.float32), x.astype(np.float32)


def _cloud(random: Random, rows: float, columns: float) -> Floats:
    """Return smooth noise [H, W] of about unit variance, with features of `rows` x `columns` pixels."""
    shape = max(2, int(HEIGHT / rows) + 2), max(2, int(WIDTH / columns) + 2)
    return cv2.resize(random.standard_normal(shape, np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _fractal(random: Random, size: float = 200) -> Floats:
    """Return noise [H, W] of about unit variance, with features of all sizes up to `size` pixels."""
    octaves = [0.6**i * _cloud(random, size / 2**i, size / 2**i) for i in range(7)]
    return sum(octaves[1:], octaves[0]) * 0.8


def _colored(amount: Floats, low: Floats, high: Floats) -> Floats:
    """Return colours [H, W, 3] between two colours [3] by an amount [H, W]: 0 is `low`, 1 is `high`."""
    return (low + amount[..., None] * (high - low)).clip(0, 1).astype(np.float32)


def _tone(random: Random, low: float = 0.2, high: float = 0.9, tint: float = 0.15) -> Floats:
    """Draw a colour [3] of little saturation."""
    return (random.uniform(low, high) + tint * random.uniform(-1, 1, 3)).clip(0, 1).astype(np.float32)


def _brown(random: Random) -> Floats:
    return np.array([0.65, 0.45, 0.28], np.float32) * random.uniform(0.6, 1.3)


def _wood(random: Random) -> Floats:
    """Return planks with grain along the rows."""
    planks = int(random.integers(3, 6))
    rows = np.arange(HEIGHT) * planks / HEIGHT
    shade = random.uniform(-0.25, 0.25, planks)[rows.astype(int)][:, None]
    grain = 0.5 * np.sin(2.5 * _cloud(random, 60, 500) + 9 * _cloud(random, 90, 900)) + 0.3 * _cloud(random, 2, 120)
    dark = np.where(rows % 1 < 0.02, 0.5, 1)[:, None, None]
    brown = _brown(random)
    return (_colored(0.5 + 0.35 * grain + shade, brown * 0.75, brown) * dark).astype(np.float32)


def _tiles(random: Random) -> Floats:
    """Return square tiles of slightly different shades, with joints."""
    side, joint = int(random.integers(60, 120)), int(random.integers(3, 6))
    row, column = np.mgrid[:HEIGHT, :WIDTH] + random.integers(0, side, (2, 1, 1))
    shades = random.uniform(-0.15, 0.15, (HEIGHT // side + 2, WIDTH // side + 2))[row // side, column // side]
    tone = _tone(random, 0.5, 0.85)
    tiles = _colored(0.5 + shades + 0.08 * _fractal(random, 60), tone * 0.7, np.minimum(tone * 1.2, 1))
    between = (row % side < joint) | (column % side < joint)
    return np.where(between[..., None], _tone(random, 0.3, 0.8, 0.03), tiles).astype(np.float32)


def _bricks(random: Random) -> Floats:
    """Return a wall of bricks in mortar."""
    height, width = int(random.integers(30, 50)), int(random.integers(80, 130))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    column = column + (row // height % 2) * width // 2
    shades = random.uniform(-0.4, 0.4, (HEIGHT // height + 1, WIDTH // width + 3))[row // height, column // width]
    brick = np.array([0.62, 0.33, 0.25], np.float32) * random.uniform(0.8, 1.2)
    bricks = _colored(0.5 + shades + 0.25 * _fractal(random, 30), brick * 0.7, brick * 1.15)
    mortar = (row % height < 5) | (column % width < 5)
    return np.where(mortar[..., None], _tone(random, 0.55, 0.75, 0.03), bricks).astype(np.float32)


def _grass(random: Random) -> Floats:
    """Return blades of many greens."""
    blades = sum((_sheared(_cloud(random, 14, 2), random.uniform(-0.6, 0.6)) for _ in range(3)), np.float32(0)) / 1.7
    green = np.array([0.33, 0.5, 0.16], np.float32) * random.uniform(0.8, 1.3)
    return _colored(0.5 + 0.4 * blades + 0.15 * _fractal(random), green * 0.4, green * 1.2)


def _sheared(image: Floats, slope: float) -> Floats:
    shear = np.array([[1, slope, -slope * HEIGHT / 2], [0, 1, 0]], np.float32)
    return cv2.warpAffine(image, shear, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)


def _cloth(random: Random) -> Floats:
    """Return woven cloth with folds."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    period = random.uniform(4, 7)
    weave = np.sin(2 * np.pi * row / period) * np.sin(2 * np.pi * column / period)
    folds = _sheared(_cloud(random, 300, 70), random.uniform(-0.8, 0.8))
    tone = _tone(random, 0.3, 0.8, 0.25)
    return _colored(0.6 + 0.18 * weave + 0.28 * folds + 0.05 * _cloud(random, 2, 2), tone * 0.5, tone * 1.1)


def _checked(random: Random) -> Floats:
    """Return a tablecloth with checks of one colour on white."""
    period = random.uniform(40, 90)
    row, column = np.mgrid[:HEIGHT, :WIDTH] / period
    stripes = (row % 1 < 0.5).astype(np.float32) + (column % 1 < 0.5)
    folds = _sheared(_cloud(random, 400, 150), random.uniform(-0.6, 0.6))
    cloth = _colored(stripes / 2, np.array([0.88, 0.87, 0.84], np.float32), _tone(random, 0.3, 0.6, 0.3))
    return (cloth * (1 + 0.06 * folds + 0.03 * _cloud(random, 2, 2))[..., None]).clip(0, 1)


def _gradient(random: Random) -> Floats:
    """Return a studio's backdrop: one colour fading into another, with noise."""
    y, x = _grid()
    angle = random.uniform(0, 2 * np.pi)
    along = 0.5 + 0.4 * (np.cos(angle) * x + np.sin(angle) * y)
    return _colored(along + 0.05 * _fractal(random), _tone(random), _tone(random))


def _bokeh(random: Random) -> Floats:
    """Return blurred lights before the dark."""
    picture = _colored(0.5 + 0.3 * _cloud(random, 200, 200), _tone(random, 0.05, 0.2), _tone(random, 0.2, 0.4))
    for _ in range(40):
        center = int(random.uniform(0, WIDTH)), int(random.uniform(0, HEIGHT))
        disc = np.zeros((HEIGHT, WIDTH), np.float32)
        cv2.circle(disc, center, int(random.uniform(8, 35)), float(random.uniform(0.2, 0.7)), -1)
        picture += disc[..., None] * _tone(random, 0.4, 0.9, 0.4)
    return cv2.GaussianBlur(picture, (0, 0), 3).clip(0, 1)


def _table(random: Random) -> Floats:
    """Return a wooden table before a painted wall; its edge passes behind the object."""
    edge = int(HEIGHT * random.uniform(0.35, 0.65))
    wall = _colored(0.5 + 0.08 * _fractal(random), *(_tone(random, 0.6, 0.9, 0.1) * np.array([[0.9], [1]], np.float32)))
    picture = np.where(np.arange(HEIGHT)[:, None, None] < edge, wall, _wood(random))
    picture[edge - 2 : edge + 3] *= 0.75
    return picture.astype(np.float32)


def _gravel(random: Random) -> Floats:
    """Return pebbles of many greys."""
    points = random.uniform(0, 1, (1800, 2)) * (HEIGHT, WIDTH)
    seeds = np.ones((HEIGHT, WIDTH), np.uint8)
    seeds[points[:, 0].astype(int), points[:, 1].astype(int)] = 0
    far, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shades = random.uniform(0.1, 1, cell.max() + 1)[cell] - 0.04 * far + 0.05 * _fractal(random, 30)
    return _colored(shades.astype(np.float32), _tone(random, 0.1, 0.2, 0.05), _tone(random, 0.6, 0.8, 0.08))


def _marble(random: Random) -> Floats:
    """Return a stone slab with veins."""
    veins = np.abs(np.sin(2 * _fractal(random, 300) + 3 * _cloud(random, 300, 300))) ** 0.4
    tone = _tone(random, 0.6, 0.9, 0.08)
    return _colored(veins + 0.08 * _fractal(random, 80), tone * 0.65, tone)


def _room(random: Random) -> Floats:
    """Return a room out of focus: large blurred things above a carpet."""
    picture = _colored(0.5 + 0.1 * _fractal(random), _tone(random), _tone(random))
    for _ in range(14):
        left, right = sorted(random.integers(0, WIDTH, 2).tolist())
        top, bottom = sorted(random.integers(0, int(HEIGHT * 0.6), 2).tolist())
        cv2.rectangle(picture, (left, top), (right, bottom), _tone(random, 0.15, 0.9, 0.25).tolist(), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(8, 14))
    floor = int(HEIGHT * random.uniform(0.55, 0.7))
    tone = _tone(random, 0.3, 0.7)
    picture[floor:] = _colored(0.5 + 0.15 * _cloud(random, 2, 3) + 0.1 * _fractal(random), tone * 0.8, tone)[floor:]
    return picture


BACKGROUNDS: dict[str, Callable[[Random], Floats]] = {
    "wood": _wood,
    "tiles": _tiles,
    "bricks": _bricks,
    "grass": _grass,
    "cloth": _cloth,
    "checked": _checked,
    "gradient": _gradient,
    "bokeh": _bokeh,
    "table": _table,
    "gravel": _gravel,
    "marble": _marble,
    "room": _room,
}
