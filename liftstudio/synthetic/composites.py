"""Free composites: a body with up to three parts or mirrored pairs on it, with random textures."""

import numpy as np

from liftstudio.synthetic import shapes
from liftstudio.synthetic.assembly import Part, TexturedObject, assemble, draw_light
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.palettes import draw_palette
from liftstudio.synthetic.shapes import Floats, Surface
from liftstudio.synthetic.textures import Pattern, Texture

_FAR = 10.0
_UPRIGHT = np.eye(3)
_LYING = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # rotates z to x; keeps mirror symmetry in y
_PATTERNS = {
    Pattern.SOLID: 0.26,
    Pattern.STRIPES: 0.18,
    Pattern.GRADIENT: 0.14,
    Pattern.HALVES: 0.08,
    Pattern.CHECKS: 0.12,
    Pattern.SPOTS: 0.12,
    Pattern.WAVES: 0.1,
}


def make_composite(draws: Draws) -> TexturedObject:
    """Draw a body with 0 to 3 parts on its surface, more often in front; some parts come in mirrored pairs."""
    count = draws.integer(0, 3)
    palette = iter(draw_palette(draws, 2 * (count + 1)))
    aligned = draws.chance(0.75)
    body, inside = _draw_shape(draws, 0.3, 0.55)
    rotation = _draw_pose(draws, aligned)
    body, inside = body.turned(rotation), rotation @ inside
    parts = [Part(body, _draw_texture(draws, next(palette), next(palette)), _frame(body, rotation))]
    for _ in range(count):
        part = _draw_part(draws, body, inside, _draw_texture(draws, next(palette), next(palette)))
        parts += [part, part.mirrored()] if aligned and draws.chance(0.35) else [part]
    return assemble(parts, draw_light(draws))


def _draw_part(draws: Draws, body: Surface, inside: Floats, texture: Texture) -> Part:
    """Draw a part placed so that an interior point of it lies on the body's surface."""
    shape, anchor = _draw_shape(draws, 0.12, 0.32)
    rotation = _draw_pose(draws, draws.chance(0.75))
    spot = _draw_spot(draws, body, inside)
    placed = shape.turned(rotation).moved(tuple(spot - rotation @ anchor))
    return Part(placed, texture, _frame(placed, rotation))


def _draw_spot(draws: Draws, body: Surface, inside: Floats) -> Floats:
    """Draw a surface point [3] in a random direction from the interior point `inside`; two in three are in front."""
    direction = np.array([draws.uniform(-0.5, 1.0), draws.uniform(-1, 1), draws.uniform(-1, 1)])
    spot = body.hit(tuple(inside + _FAR * direction), tuple(-direction))
    assert spot is not None  # the ray passes through a point inside the closed surface
    return spot


def _draw_pose(draws: Draws, aligned: bool) -> Floats:
    """Draw a rotation [3, 3]: aligned with the axes, or uniform."""
    if aligned:
        return _LYING if draws.chance(0.35) else _UPRIGHT
    return _draw_rotation(draws)


def _draw_rotation(draws: Draws) -> Floats:
    """Draw a uniform rotation [3, 3] (Shoemake 1992, "Uniform random rotations")."""
    share, a, b = draws.uniform(0, 1), draws.uniform(0, 2 * np.pi), draws.uniform(0, 2 * np.pi)
    x, y = np.sqrt(1 - share) * np.sin(a), np.sqrt(1 - share) * np.cos(a)
    z, w = np.sqrt(share) * np.sin(b), np.sqrt(share) * np.cos(b)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _frame(surface: Surface, rotation: Floats) -> Floats:
    """Return the frame [3, 4] that undoes the rotation and scales uniformly to w in [-1, 1] along the axis."""
    local = surface.vertices @ rotation
    low, high = local.min(0), local.max(0)
    half = (high[2] - low[2]) / 2
    return np.concatenate([rotation.T, -(low + high)[:, None] / 2], axis=1) / half


def _draw_texture(draws: Draws, first: tuple[float, float, float], second: tuple[float, float, float]) -> Texture:
    pattern = draws.weighted(_PATTERNS)
    count = float(draws.integer(3, 6)) if pattern == Pattern.STRIPES else draws.uniform(2.2, 4.5)
    shift = {
        Pattern.HALVES: draws.uniform(-0.3, 0.3),
        Pattern.SPOTS: draws.uniform(0.3, 0.42),
        Pattern.WAVES: draws.uniform(0, 2 * np.pi),
    }.get(pattern, 0.0)
    return Texture(pattern, first, second, count, shift)


def _draw_shape(draws: Draws, least: float, most: float) -> tuple[Surface, Floats]:
    """Draw an upright shape around the origin, half-sides in [least, most], and a point [3] inside it."""
    x, y, z = (draws.uniform(least, most) for _ in range(3))
    if draws.chance(0.1):
        major, minor = 0.7 * most, draws.uniform(0.2, 0.3) * most
        return shapes.torus(major, minor), np.array([major, 0.0, 0.0])
    build = draws.weighted(
        {_superquadric: 0.35, _box: 0.15, _extrusion: 0.15, _cylinder: 0.1, _cone: 0.1, _lathe: 0.15}
    )
    return build(draws).scaled(x, y, z), np.zeros(3)


def _superquadric(draws: Draws) -> Surface:
    return shapes.superquadric(draws.uniform(0.25, 1.3), draws.uniform(0.25, 1.3), 12, 24)


def _box(draws: Draws) -> Surface:
    return shapes.sweep([(1.0, -1.0), (1.0, 1.0)], shapes.square())


def _cylinder(draws: Draws) -> Surface:
    return shapes.sweep([(1.0, -1.0), (1.0, 1.0)], shapes.circle(24))


def _cone(draws: Draws) -> Surface:
    """Draw a cone or a frustum."""
    top = draws.choice([0.0, draws.uniform(0.25, 0.6)])
    return shapes.sweep([(1.0, -1.0), (top, 1.0)], shapes.circle(24))


def _extrusion(draws: Draws) -> Surface:
    """Draw a prism over a triangle, pentagon, hexagon, star or cross."""
    corners = draws.choice([3, 5, 6])
    section = draws.choice([shapes.circle(corners), shapes.star(5, 0.45), shapes.star(6, 0.55), shapes.cross(0.36)])
    return shapes.sweep([(1.0, -1.0), (1.0, 1.0)], section)


def _lathe(draws: Draws) -> Surface:
    """Draw a surface of revolution with a smooth random outline."""
    knots = [draws.uniform(0.35, 1.0) for _ in range(5)]
    height = np.linspace(-1.0, 1.0, 13)
    radius = np.interp(height, np.linspace(-1.0, 1.0, 5), knots)
    smooth = np.convolve(np.pad(radius, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return shapes.sweep(list(zip(smooth.tolist(), height.tolist(), strict=True)), shapes.circle(24))
