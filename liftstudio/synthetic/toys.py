"""Toy figures: mirror symmetric, facing +x, with textures that vary only along the axes of the parts, so that the front
determines most of the back.

Toys are built in their own units (about 1.6 high); `assemble` centres and scales them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from liftstudio.synthetic import shapes
from liftstudio.synthetic.assembly import Part, TexturedObject, assemble, axis_frame, box_frame, draw_light
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.palettes import draw_palette, shade_of
from liftstudio.synthetic.shapes import Floats, Surface
from liftstudio.synthetic.textures import Color, Pattern, Texture

_SIDE = (1.0, 0.0, 0.0)  # `side` of limbs that stay near a plane x = const
_DARK: Color = (0.06, 0.05, 0.08)
_WHITE: Color = (0.97, 0.97, 0.97)
_FAR = 10.0


@dataclass(frozen=True)
class _Outfit:
    """The textures of one toy."""

    body: Texture
    head: Texture
    limbs: Texture
    accent: Texture  # hands, feet, tail tip
    hat: Texture
    nose: Color


def make_toy(draws: Draws) -> TexturedObject:
    """Draw a toy figure."""
    outfit = _draw_outfit(draws)
    torso, width = _draw_torso(draws)
    parts = [Part(torso, outfit.body, box_frame(torso))]
    parts += _draw_stand(draws, outfit, torso, width)
    parts += _draw_arms(draws, outfit, torso, width)
    if draws.chance(0.4):
        parts += _draw_tail(draws, outfit, torso)
    parts += _draw_head(draws, outfit, torso, width)
    return assemble(parts, draw_light(draws))


def _draw_outfit(draws: Draws) -> _Outfit:
    body, head, limbs, accent, hat = draw_palette(draws, 5)
    if draws.chance(0.35):
        limbs = head  # sleeveless
    return _Outfit(
        body=_draw_texture(draws, body, accent, {Pattern.SOLID: 0.4, Pattern.STRIPES: 0.4, Pattern.GRADIENT: 0.2}, 5),
        head=_draw_texture(draws, head, shade_of(head, 0.6), {Pattern.SOLID: 0.85, Pattern.GRADIENT: 0.15}, 1),
        limbs=_draw_texture(draws, limbs, body, {Pattern.SOLID: 0.75, Pattern.STRIPES: 0.25}, 4),
        accent=Texture(Pattern.SOLID, accent),
        hat=_draw_texture(draws, hat, accent, {Pattern.SOLID: 0.6, Pattern.STRIPES: 0.4}, 4),
        nose=draws.choice([accent, hat, (0.95, 0.45, 0.1), _DARK]),
    )


def _draw_texture(
    draws: Draws, first: Color, second: Color, weights: dict[Pattern, float], most_stripes: int
) -> Texture:
    count = draws.integer(3, max(most_stripes, 3))
    return Texture(draws.weighted(weights), first, second, float(count))


def _draw_torso(draws: Draws) -> tuple[Surface, float]:
    """Draw the torso, standing on z = 0; return it with its half-width."""
    width, height = draws.uniform(0.3, 0.44), draws.uniform(0.27, 0.4)
    depth = width * draws.uniform(0.75, 1.0)
    build = draws.weighted({_draw_blob: 0.35, _draw_cylinder: 0.2, _draw_frustum: 0.2, _draw_vase: 0.25})
    return build(draws).scaled(depth, width, height).moved((0.0, 0.0, height)), width


def _draw_blob(draws: Draws) -> Surface:
    return shapes.superquadric(draws.uniform(0.35, 1.0), draws.uniform(0.4, 1.0))


def _draw_cylinder(draws: Draws) -> Surface:
    return shapes.sweep([(0.9, -1.0), (1.0, -0.9), (1.0, 0.9), (0.9, 1.0)], shapes.circle(16))


def _draw_frustum(draws: Draws) -> Surface:
    top = draws.uniform(0.3, 0.6)
    return shapes.sweep([(0.93, -1.0), (1.0, -0.93), (top, 1.0)], shapes.circle(16))


def _draw_vase(draws: Draws) -> Surface:
    """Draw a surface of revolution with belly, waist and chest."""
    belly, chest = draws.uniform(0.75, 1.0), draws.uniform(0.55, 0.9)
    waist = min(belly, chest) * draws.uniform(0.75, 1.0)
    knots = np.array([0.75 * belly, belly, waist, chest, 0.6 * chest])
    height = np.linspace(-1.0, 1.0, 11)
    radius = np.interp(height, [-1.0, -0.6, 0.1, 0.6, 1.0], knots)
    smooth = np.convolve(np.pad(radius, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return shapes.sweep(list(zip(smooth.tolist(), height.tolist(), strict=True)), shapes.circle(16))


def _both(part: Part) -> list[Part]:
    return [part, part.mirrored()]


def _solid(surface: Surface, color: Color) -> Part:
    return Part(surface, Texture(Pattern.SOLID, color), box_frame(surface))


def _draw_stand(draws: Draws, outfit: _Outfit, torso: Surface, width: float) -> list[Part]:
    return _draw_base(draws, outfit, width) if draws.chance(0.25) else _draw_legs(draws, outfit, torso, width)


def _draw_base(draws: Draws, outfit: _Outfit, width: float) -> list[Part]:
    radius, thickness = width * draws.uniform(1.15, 1.5), draws.uniform(0.07, 0.13)
    disc = shapes.sweep([(0.93, -1.0), (1.0, -0.6), (1.0, 0.6), (0.93, 1.0)], shapes.circle(20))
    disc = disc.scaled(radius, radius, thickness).moved((0.0, 0.0, -0.7 * thickness))
    return [Part(disc, outfit.accent, box_frame(disc))]


def _draw_legs(draws: Draws, outfit: _Outfit, torso: Surface, width: float) -> list[Part]:
    radius, length = width * draws.uniform(0.28, 0.4), draws.uniform(0.16, 0.4)
    y = max(width * draws.uniform(0.42, 0.55), 1.1 * radius)
    hip = torso.hit((0.0, y, -_FAR), (0.0, 0.0, 1.0))
    top = (hip[2] if hip is not None else 0.2) + 0.8 * radius
    foot = np.array([0.0, y * draws.uniform(1.0, 1.25), -length])
    path = np.linspace(np.array([0.0, y, top]), foot, 5)
    leg = shapes.limb(path, np.full(5, radius), _SIDE)
    parts = _both(Part(leg, outfit.limbs, axis_frame(path[0], path[-1])))
    if draws.chance(0.75):
        shoe = shapes.superquadric(0.7, 0.9, 6, 10).scaled(1.75 * radius, 1.2 * radius, 0.85 * radius)
        shoe = shoe.moved((0.6 * radius, foot[1], foot[2] - 0.1 * radius))
        parts += _both(Part(shoe, outfit.accent, box_frame(shoe)))
    return parts


def _draw_arms(draws: Draws, outfit: _Outfit, torso: Surface, width: float) -> list[Part]:
    radius, length = draws.uniform(0.08, 0.115), draws.uniform(0.34, 0.55)
    top = torso.vertices[:, 2].max()
    z = top * draws.uniform(0.68, 0.8)
    start = torso.hit((0.0, _FAR, z), (0.0, -1.0, 0.0))
    assert start is not None  # the ray crosses the axis of the torso
    shoulder = start - np.array([0.0, 0.7 * radius, 0.0])
    path = shoulder + length * _draw_pose(draws)
    arm = shapes.limb(path, np.linspace(1.0, 0.85, len(path)) * radius, _SIDE)
    parts = _both(Part(arm, outfit.limbs, axis_frame(path[0], path[-1])))
    if draws.chance(0.65):
        hand = shapes.ball(1.35 * radius).moved(tuple(path[-1]))
        parts += _both(Part(hand, outfit.accent, box_frame(hand)))
    return parts


def _draw_pose(draws: Draws) -> Floats:
    """Draw the path [6, 3] of an arm of length about 1, from the left shoulder (+y) at the origin."""
    upper_deg, lower_deg = draws.choice(
        [
            (draws.uniform(-12, 12),) * 2,  # out
            (draws.uniform(-62, -45),) * 2,  # down
            (draws.uniform(35, 60),) * 2,  # up
            (draws.uniform(-30, -5), draws.uniform(60, 100)),  # bent upwards
            (draws.uniform(-10, 5), draws.uniform(-95, -70)),  # bent downwards
        ]
    )
    forward = draws.choice([0.0, 0.0, 0.35, 0.7])
    directions = [
        np.array([share * forward, np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        for share, angle in ((0.3, upper_deg), (1.0, lower_deg))
    ]
    elbow = 0.5 * directions[0]
    hand = elbow + 0.5 * directions[1]
    t = np.linspace(0, 1, 6)[:, None]
    return 2 * t * (1 - t) * elbow + t * t * hand  # a quadratic Bezier curve from the origin


def _draw_tail(draws: Draws, outfit: _Outfit, torso: Surface) -> list[Part]:
    z = torso.vertices[:, 2].max() * draws.uniform(0.15, 0.35)
    root = torso.hit((-_FAR, 0.0, z), (1.0, 0.0, 0.0))
    assert root is not None  # the ray crosses the axis of the torso
    radius = draws.uniform(0.075, 0.105)
    if draws.chance(0.5):
        ball = shapes.ball(1.6 * radius).moved((root[0] - radius, 0.0, z))
        return [Part(ball, outfit.accent, box_frame(ball))]
    t = np.linspace(0, 1, 7)[:, None]
    elbow, tip = np.array([-0.3, 0.0, -0.05]), np.array([-0.38, 0.0, draws.uniform(0.2, 0.45)])
    path = root + np.array([0.5 * radius, 0.0, 0.0]) + 2 * t * (1 - t) * elbow + t * t * tip
    tail = shapes.limb(path, np.linspace(1.0, 0.8, 7) * radius, (0.0, 1.0, 0.0))
    return [Part(tail, outfit.limbs, axis_frame(path[0], path[-1]))]


def _draw_head(draws: Draws, outfit: _Outfit, torso: Surface, width: float) -> list[Part]:
    """Draw the head with its face, and ears or a hat."""
    half_width, half_height = draws.uniform(0.29, 0.4), draws.uniform(0.26, 0.36)
    half_depth = half_width * draws.uniform(0.8, 1.0)
    unit = shapes.superquadric(draws.uniform(0.4, 1.0), draws.uniform(0.45, 1.0))
    z = torso.vertices[:, 2].max() + draws.uniform(0.72, 0.85) * half_height
    head = unit.scaled(half_depth, half_width, half_height).moved((0.0, 0.0, z))
    parts = [Part(head, outfit.head, box_frame(head))]
    top = draws.weighted({_draw_ears: 0.35, _draw_cone_hat: 0.2, _draw_brimmed_hat: 0.3, _draw_nothing: 0.15})
    size = np.array([half_depth, half_width, half_height])
    return parts + _draw_face(draws, outfit, head, z, size) + top(draws, outfit, head, z, size)


def _front(head: Surface, y: float, z: float) -> Floats:
    point = head.hit((_FAR, y, z), (-1.0, 0.0, 0.0))
    assert point is not None  # facial features lie well inside the outline of the head
    return point


def _draw_face(draws: Draws, outfit: _Outfit, head: Surface, z: float, size: Floats) -> list[Part]:
    _, width, height = size
    eye_radius = draws.uniform(0.24, 0.32) * width
    spot = _front(head, draws.uniform(0.4, 0.48) * width, z + draws.uniform(0.08, 0.2) * height)
    parts = _both(_draw_eye(draws, spot, eye_radius))
    if draws.chance(0.7):
        parts.append(_draw_nose(draws, outfit, _front(head, 0.0, z - 0.1 * height), width))
    if draws.chance(0.75):
        parts.append(_draw_mouth(draws, head, z - 0.42 * height, width, height))
    return parts


def _draw_eye(draws: Draws, spot: Floats, radius: float) -> Part:
    """Draw an eye: a ball set into the head, black or white with a pupil in front."""
    ball = shapes.ellipsoid(0.7 * radius, radius, radius, 6, 12).turned(_Z_TO_X).moved(tuple(spot))
    front = np.array([0.7 * radius, 0.0, 0.0])
    if draws.chance(0.4):
        return _solid(ball, _DARK)
    return Part(ball, Texture(Pattern.HALVES, _WHITE, _DARK, shift=0.72), axis_frame(spot - front, spot + front))


_Z_TO_X = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def _draw_nose(draws: Draws, outfit: _Outfit, spot: Floats, width: float) -> Part:
    radius = draws.uniform(0.15, 0.22) * width
    if draws.chance(0.35):
        cone = shapes.sweep([(radius, -0.1), (0.0, draws.uniform(2.0, 3.2) * radius)], shapes.circle(10))
        return _solid(cone.turned(_Z_TO_X).moved(tuple(spot)), outfit.nose)
    return _solid(shapes.ellipsoid(radius, radius, 0.9 * radius).moved(tuple(spot)), outfit.nose)


def _draw_mouth(draws: Draws, head: Surface, z: float, width: float, height: float) -> Part:
    """Draw a smile along the surface of the head."""
    reach, bend = draws.uniform(0.3, 0.42) * width, draws.uniform(0.1, 0.22) * height
    y = np.linspace(-reach, reach, 7)
    path = np.stack([_front(head, across, z + bend * (across / reach) ** 2) for across in y])
    return _solid(shapes.limb(path, np.full(7, 0.085 * width), _SIDE, 6), draws.choice([_DARK, (0.55, 0.05, 0.08)]))


def _draw_nothing(draws: Draws, outfit: _Outfit, head: Surface, z: float, size: Floats) -> list[Part]:
    return []


def _draw_ears(draws: Draws, outfit: _Outfit, head: Surface, z: float, size: Floats) -> list[Part]:
    width = size[1]
    root = head.hit((0.0, 0.62 * width, _FAR), (0.0, 0.0, -1.0))
    assert root is not None  # within the head's outline
    radius = draws.uniform(0.3, 0.42) * width
    texture = outfit.hat if draws.chance(0.5) else outfit.head
    shape: Callable[[], Surface] = draws.choice(
        [
            lambda: shapes.ellipsoid(0.5 * radius, radius, radius).moved((0.0, 0.0, 0.45 * radius)),  # bear
            lambda: shapes.sweep([(radius, -0.5 * radius), (0.0, 1.7 * radius)], shapes.circle(10)),  # cat
            lambda: shapes.ellipsoid(0.6 * radius, 0.75 * radius, 1.9 * radius).moved(
                (0.0, 0.0, 1.3 * radius)
            ),  # rabbit
        ]
    )
    ear = shape().moved(tuple(root))
    return _both(Part(ear, texture, box_frame(ear)))


def _draw_cone_hat(draws: Draws, outfit: _Outfit, head: Surface, z: float, size: Floats) -> list[Part]:
    depth, width, height = size
    rim = z + 0.62 * height
    share = draws.uniform(0.75, 0.95)
    cone = shapes.sweep([(0.95, -0.02), (1.0, 0.0), (0.0, draws.uniform(0.4, 0.62))], shapes.circle(16))
    cone = cone.scaled(share * depth, share * width, 1.0).moved((0.0, 0.0, rim))
    parts = [Part(cone, outfit.hat, box_frame(cone))]
    if draws.chance(0.5):
        tip = cone.vertices[:, 2].max()
        parts.append(_solid(shapes.ball(0.075).moved((0.0, 0.0, tip)), outfit.accent.first))
    return parts


def _draw_brimmed_hat(draws: Draws, outfit: _Outfit, head: Surface, z: float, size: Floats) -> list[Part]:
    depth, width, height = size
    rim = z + 0.6 * height
    share = draws.uniform(0.7, 0.85)
    brim = shapes.sweep([(0.96, -1.0), (1.0, 0.0), (0.96, 1.0)], shapes.circle(20))
    brim = brim.scaled(1.25 * depth, 1.25 * width, 0.045).moved((0.0, 0.0, rim))
    crown = shapes.sweep([(1.0, 0.0), (draws.uniform(0.75, 1.0), 1.0)], shapes.circle(16))
    crown = crown.scaled(share * depth, share * width, draws.uniform(0.24, 0.42)).moved((0.0, 0.0, rim))
    return [_solid(brim, outfit.hat.first), Part(crown, outfit.hat, box_frame(crown))]
