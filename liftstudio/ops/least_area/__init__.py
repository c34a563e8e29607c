"""Segmentation of a volume by least surface area: the convex two-label problem, solved to its global optimum.

    minimise  integral |grad u| + sum f u   over  u in [0, 1]     (Zach, Pock and Bischof, ICCV 2007)

by the primal-dual algorithm of Chambolle and Pock (2011). Thresholding u at one half gives the optimal inside.
"""

import importlib

from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for

_MODULES = {"reference": "reference", "numba": "cpu"}
# tau * sigma * |grad|^2 <= 1, where |grad|^2 <= 12 for forward differences in 3D
STEP = 12**-0.5


def least_area(data: Tensor, iterations: int) -> Tensor:
    """[X, Y, Z] float u in [0, 1], 1 inside; threshold at 0.5.

    data: [X, Y, Z] float, what it costs a cell to be inside, in cell faces of surface area; negative where it wants to
    be inside, 0 where nothing is known. iterations: about 200 settle volumes of 64 cells per side.

    Raises:
        ValueError: `data` is not a volume.
    """
    check_shape("data", data, ("X", "Y", "Z"))
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('least_area', data)]}")
    return module.least_area(data, iterations, STEP)
