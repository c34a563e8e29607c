"""Seeded, reproducible generators of textured meshes in canonical pose, and their renderer.

Objects are in the world frame of a run: z up, front on +x, centred at the origin, longest side 1.8. They fit into the
images of cameras at distance 3.6 with a field of view of 33.8 degrees.
"""

from typing import Literal

import torch

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.synthetic.assembly import Light, TexturedObject
from liftstudio.synthetic.composites import make_composite
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.patterns import patterned
from liftstudio.synthetic.rendering import ObjectRender, render
from liftstudio.synthetic.toys import make_toy

__all__ = ["Kind", "Light", "ObjectRender", "Split", "TexturedObject", "make_object", "patterned", "render", "split"]

Kind = Literal["toy", "composite"]
Split = Literal["train", "unseen"]

_GENERATORS = {"toy": make_toy, "composite": make_composite}
_OBJECTS = 2**30  # per kind and split; torch's CPU generator uses only 32 bits of a seed
_BLOCKS = {("toy", "unseen"): 0, ("toy", "train"): 1, ("composite", "unseen"): 2, ("composite", "train"): 3}


def make_object(kind: Kind, seed: int) -> TexturedObject:
    """Return the object of a seed, the same on every call.

    Raises:
        InputError: an unknown kind, or a seed outside [0, 2^32).
    """
    if kind not in _GENERATORS:
        raise InputError(f"kind: expected one of {', '.join(_GENERATORS)}, got {kind!r}")
    check_range("seed", seed, 0, 2**32 - 1)
    return _GENERATORS[kind](Draws(torch.Generator().manual_seed(seed)))


def split(index: int, kind: Kind, split: Split) -> int:
    """Return the seed of object `index` of a kind, in the training split or in the split that is never trained on.

    Unseen toys 0 to 49 are the test set of the reported results.

    Raises:
        InputError: an index outside [0, 2^30), or an unknown kind or split.
    """
    if (kind, split) not in _BLOCKS:
        raise InputError(f"kind and split: expected toy or composite, and train or unseen; got {kind!r}, {split!r}")
    check_range("index", index, 0, _OBJECTS - 1)
    return _BLOCKS[kind, split] * _OBJECTS + index
