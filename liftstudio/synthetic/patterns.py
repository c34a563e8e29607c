"""Replaces an object's textures by high-contrast patterns, for tasks about texture."""

from dataclasses import replace

import numpy as np
import torch

from liftstudio.synthetic.assembly import Floats, TexturedObject
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.palettes import draw_palette
from liftstudio.synthetic.textures import Pattern

_PATTERNS = {Pattern.STRIPES: 0.25, Pattern.CHECKS: 0.3, Pattern.SPOTS: 0.25, Pattern.WAVES: 0.2}
_LEAST_WIDTH, _MOST_WIDTH = 0.14, 0.35  # world units, range of the width of a stripe or cell: 6 to 15 of 96 pixels


def patterned(obj: TexturedObject, seed: int) -> TexturedObject:
    """Return the object with each texture replaced by a pattern of similar scale, in distinct colours.

    Parts that share a texture still do afterwards, so symmetric objects stay symmetric.

    Args:
        seed: in [0, 2^32), determines the patterns; their draws are independent of those of the object with that seed.
    """
    draws = Draws(torch.Generator().manual_seed(2**32 - 1 - seed))
    looks = np.concatenate([obj.patterns[:, None], obj.settings, obj.colors.reshape(-1, 6)], axis=1)
    _, first, look = np.unique(looks, axis=0, return_index=True, return_inverse=True)
    colors = np.array([draw_palette(draws, 2) for _ in first])
    drawn = [_draw_pattern(draws, obj.frames[part]) for part in first]
    look = look.reshape(-1)
    return replace(
        obj,
        patterns=np.array([pattern for pattern, _, _ in drawn], np.int64)[look],
        settings=np.array([settings for _, *settings in drawn], np.float64)[look],
        colors=colors[look],
    )


def _draw_pattern(draws: Draws, frame: Floats) -> tuple[Pattern, float, float]:
    """Draw pattern, count and shift for a part with that frame [3, 4]."""
    pattern = draws.weighted(_PATTERNS)
    length = 2 / float(np.linalg.norm(frame[2, :3]))  # of the part along its axis, world units
    count = max(length / draws.uniform(_LEAST_WIDTH, _MOST_WIDTH), 2.0)
    shift = {Pattern.SPOTS: draws.uniform(0.36, 0.48), Pattern.WAVES: draws.uniform(0, 2 * np.pi)}.get(pattern, 0.0)
    return pattern, float(round(count)) if pattern == Pattern.STRIPES else count, shift
