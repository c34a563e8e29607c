"""Segmentation of a volume by least surface area: the convex two-label problem, solved to its global optimum.

    minimise  integral |grad u| + sum f u   over  u in [0, 1]     (Zach, Pock and Bischof, ICCV 2007)

by the primal-dual algorithm of Chambolle and Pock (2011). Thresholding u at 0.5 gives the optimal inside.
"""

import importlib

from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for

_MODULES = {"reference": "reference", "numba": "cpu"}
# tau * sigma * |grad|^2 <= 1, where |grad|^2 <= 12 for forward differences in 3D
STEP = 12**-0.5


def least_area(data: Tensor, iterations: int) -> Tensor:
    """The labelling u [X, Y, Z] in [0, 1], 1 inside; threshold at 0.5.

    data: [X, Y, Z] float, cost f of a cell being inside, in units of the area of a cell face; negative if it is
    probably inside, 0 if unknown. iterations: about 200 suffice for 64 cells per side.

    Raises:
        ValueError: `data` is not a volume.
    """
    check_shape("data", data, ("X", "Y", "Z"))
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('least_area', data)]}")
    return module.least_area(data, iterations, STEP)
