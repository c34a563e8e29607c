"""Minimum barrier distance of an image's pixels to its border, which is large where colours differ on every way there.

The barrier of a path is the largest minus the smallest value on it; the distance is the least barrier of all paths. It
is approximated by sweeps over the image, as in Zhang et al. 2015, "Minimum Barrier Salient Object Detection at 80 FPS".
"""

import importlib

from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for

_MODULES = {"reference": "reference", "numba": "cpu"}


def barrier_distance(image: Tensor) -> Tensor:
    """The distances [H, W] of an image [H, W, C], summed over its channels; 0 on the border; not differentiable.

    Sweeps go down and right, then up and left, twice.

    Raises:
        ValueError: for a wrong shape.
    """
    check_shape("image", image, ("H", "W", "C"))
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('barrier_distance', image)]}")
    return module.barrier_distance(image.detach())
