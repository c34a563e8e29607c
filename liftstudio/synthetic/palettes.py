"""Palettes of clearly distinct colours."""

import colorsys
import math

from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.textures import Color

_TRIES = 30
_ENOUGH = 0.42  # `_difference` of clearly distinct colours; that of white and yellow is 0.5


def draw_palette(draws: Draws, count: int) -> list[Color]:
    """Draw `count` colours that differ from one another and from white."""
    palette: list[Color] = [(1.0, 1.0, 1.0)]
    for _ in range(count):
        palette.append(_draw_different(draws, palette))
    return palette[1:]


def shade_of(color: Color, factor: float) -> Color:
    """Return the colour darkened by a factor below 1."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def _draw_different(draws: Draws, others: list[Color]) -> Color:
    """Draw colours until one differs enough from the others; else return the best of a few."""
    best, largest = others[0], 0.0
    for _ in range(_TRIES):
        color = _draw_color(draws)
        least = min(_difference(color, other) for other in others)
        if least > largest:
            best, largest = color, least
        if largest > _ENOUGH:
            break
    return best


def _draw_color(draws: Draws) -> Color:
    return colorsys.hsv_to_rgb(draws.uniform(0, 1), draws.uniform(0.45, 1.0), draws.uniform(0.5, 1.0))


def _difference(a: Color, b: Color) -> float:
    """Return the distance in luma and two colour differences."""
    luma = 0.3 * (a[0] - b[0]) + 0.6 * (a[1] - b[1]) + 0.1 * (a[2] - b[2])
    red, blue = (a[0] - a[1]) - (b[0] - b[1]), (a[2] - a[1]) - (b[2] - b[1])
    return math.sqrt(2.0 * luma * luma + 0.35 * red * red + 0.35 * blue * blue)
