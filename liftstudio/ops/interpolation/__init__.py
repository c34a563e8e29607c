"""Interpolation of vertex attributes at the fragments of a rasterised mesh."""

from torch import Tensor

from liftstudio.core.checks import check_indices, check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.interpolation import reference
from liftstudio.ops.rasterization import Fragments


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Perspective-correct attributes [P, C] of the fragments.

    attributes: [V, C], shared by the images of the batch, or [B, V, C]. faces: [F, 3] int64, indices into the V
    attributes; they may differ from those of the rasterised faces (as for texture coordinates), but not in the order of
    faces. Differentiable w.r.t. `attributes` and `fragments.barycentric`.

    Raises:
        ValueError: for a wrong shape or an index out of range.
    """
    check_shape("faces", faces, ("F", 3))
    batched = attributes.dim() == 3
    check_shape("attributes", attributes, (fragments.shape[0], "V", "C") if batched else ("V", "C"))
    vertex_count = attributes.shape[-2]
    check_indices("faces", faces, vertex_count)
    check_indices("fragments.face", fragments.face, len(faces))
    corners = faces.index_select(0, fragments.face)
    if batched:
        _, height, width = fragments.shape
        corners = corners + (fragments.pixel // (height * width) * vertex_count)[:, None]
    table = attributes.reshape(-1, attributes.shape[-1])
    if backend_for("interpolation", attributes) == "numba":
        from liftstudio.ops.interpolation import cpu

        return cpu.interpolate(table, corners, fragments.barycentric)
    return reference.interpolate(table, corners, fragments.barycentric)
