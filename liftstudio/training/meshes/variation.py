"""Random variation of a mesh each time it is drawn: proportions, mirroring, and sometimes colours."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from liftstudio.synthetic.assembly import Floats
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.palettes import draw_palette
from liftstudio.synthetic.textures import Pattern
from liftstudio.training.meshes.packs import StoredMesh
from liftstudio.training.meshes.posing import MeshObject, Overlay, pose

STRETCH = (0.8, 1.25)  # range of the factor along each axis
_RECOLOURED = 0.15  # share of objects in other colours
_PATTERNED = {True: 0.12, False: 0.04}  # share of objects with a pattern; key: whether colours are flat
_PATTERNS = {Pattern.STRIPES: 0.3, Pattern.CHECKS: 0.2, Pattern.SPOTS: 0.3, Pattern.WAVES: 0.2}
_TURN = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1]]) / 3
_ACROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)


def varied(mesh: StoredMesh, draws: Draws) -> MeshObject:
    """Return the mesh in canonical pose, with random proportions; all randomness comes from `draws`."""
    low, high = np.log(STRETCH)
    stretch = np.exp([draws.uniform(low, high) for _ in range(3)])
    mirrored = draws.chance(0.5)
    if draws.chance(_RECOLOURED):
        mesh = replace(mesh, palette=recoloured(mesh.palette, draws))
    obj = pose(mesh, (stretch[0], stretch[1], stretch[2]), mirrored)
    if draws.chance(_PATTERNED[len(mesh.texels) == 1]):
        return _patterned(obj, mesh, draws)
    return obj


def recoloured(palette: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
    """Return the colours [P, 3], rotated about the grey axis by a random angle and tinted, so that greys change too."""
    angle = draws.uniform(0, 2 * np.pi)
    turn = _TURN + np.cos(angle) * (np.eye(3) - _TURN) + np.sin(angle) * _ACROSS
    dye = np.array([draws.uniform(0.65, 1.1) for _ in range(3)])
    return _bytes(palette @ turn.T * dye)


def _patterned(obj: MeshObject, mesh: StoredMesh, draws: Draws) -> MeshObject:
    """Replace some of its colours where a random pattern applies."""
    other = np.array(draw_palette(draws, 1)[0]) * 255
    strength = draws.uniform(0.4, 1.0)
    # Colours near a chosen one change: on an object of flat colours, these are whole parts.
    chosen = mesh.palette[draws.integer(0, len(mesh.palette) - 1)]
    is_near = (np.abs(mesh.palette.astype(np.int16) - chosen).max(1) < 64)[:, None]
    second = np.where(is_near, _bytes(mesh.palette + strength * (other - mesh.palette)), mesh.palette)
    pattern = draws.weighted(_PATTERNS)
    width, turn = draws.uniform(0.12, 0.4), draws.integer(0, 2)
    shift = draws.uniform(0, 2 * np.pi) if pattern == Pattern.WAVES else draws.uniform(0.3, 0.48)
    overlay = Overlay(pattern, 2 / width, shift, np.roll(np.eye(3, 4), turn, axis=0))
    return replace(obj, textures=np.stack([obj.textures[0], second[mesh.texels]]), overlay=overlay)


def _bytes(colors: Floats) -> NDArray[np.uint8]:
    return np.rint(colors.clip(0, 255)).astype(np.uint8)
