"""Silhouette antialiasing by edges, which makes coverage differentiable.

A silhouette edge is a boundary edge, or one whose two faces lie on the same side of it as seen by the camera. Each is
walked across the image, over the segments between adjacent pixel centres that it crosses. If the nearest crossing of
a pair of pixels is visible, the two are blended by its position between their centres: horizontal pairs by steep
edges, vertical pairs by shallow ones, so that every piece of the outline counts once. All silhouette edges are walked,
also those of triangles that cover no pixel centre, so the gradient of coverage is correct on coarse and fine meshes.

Limits: there is no edge where surfaces intersect, so intersection lines stay aliased and carry no gradient. Duplicated
vertices turn their edges into boundaries: weld the mesh first. A sliver of a third surface between two outlines that
pass between the same two pixel centres is missed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_indices, check_shape
from liftstudio.ops.antialiasing import reference
from liftstudio.ops.backends import backend_for
from liftstudio.ops.edges import Edges, edge_adjacency
from liftstudio.ops.rasterization.reference import pixel_centres


@dataclass(frozen=True)
class Crossings:
    """Visible silhouette crossings, at most one per pair of adjacent pixels, ordered by pair.

    inner: [K] int64, flat pixel index b H W + i W + j on the side of the edge's surface.
    outer: [K] int64, the neighbouring pixel on the other side.
    edge:  [K] int64, index into the edges.
    """

    inner: Tensor
    outer: Tensor
    edge: Tensor


def antialias(image: Tensor, clip: Tensor, faces: Tensor, face_index: Tensor, edges: Edges | None = None) -> Tensor:
    """The image [B, H, W, C], blended across visible silhouettes; differentiable w.r.t. `image` and `clip`.

    image: [B, H, W, C] float. clip: [B, V, 4] float clip positions. faces: [F, 3] int64. face_index: [B, H, W] from
    `rasterize` of the same mesh. edges: `edge_adjacency(faces, V)`, computed if None.

    Let t in (0, 1) be the distance of the edge from the inner pixel's centre towards the outer one's. If t > 1/2, the
    outer pixel takes t - 1/2 of the inner colour, otherwise the inner pixel takes 1/2 - t of the outer colour. Shares
    of a pixel that add up to more than one are scaled to one, so the result stays within the range of the image.

    Raises:
        ValueError: for a wrong shape or an index out of range.
    """
    check_shape("image", image, ("B", "H", "W", "C"))
    check_shape("clip", clip, (len(image), "V", 4))
    check_shape("face_index", face_index, image.shape[:3])
    check_indices("face_index", face_index, len(faces), least=-1)
    check_indices("faces", faces, clip.shape[1])
    if edges is None:
        edges = edge_adjacency(faces, clip.shape[1])
    check_indices("edges.vertices", edges.vertices, clip.shape[1])
    check_indices("edges.opposite", edges.opposite, clip.shape[1], least=-1)
    crossings = find_crossings(clip, faces, face_index, edges)
    distance = crossing_distance(clip, crossings, edges, image.shape[1], image.shape[2])
    return blend(image, crossings, distance)


def find_crossings(clip: Tensor, faces: Tensor, face_index: Tensor, edges: Edges) -> Crossings:
    """The pairs of pixels that a visible silhouette edge separates, and the edge; not differentiable."""
    arguments = clip.detach(), faces, face_index, edges.vertices, edges.opposite
    if backend_for("antialiasing", clip) == "numba":
        from liftstudio.ops.antialiasing import cpu

        return Crossings(*cpu.find_crossings(*arguments))
    return Crossings(*reference.find_crossings(*arguments))


def crossing_distance(clip: Tensor, crossings: Crossings, edges: Edges, height: int, width: int) -> Tensor:
    """Distance [K] in pixels from the inner centre to the crossing, in [0, 1]; differentiable w.r.t. clip.

    On the line through the two centres, where one NDC coordinate is fixed, the edge from a to b is at
    (x_a v_b - x_b v_a) / (w_a v_b - w_b v_a), where v is the fixed coordinate of an end relative to the line.
    """
    vertex_count = clip.shape[1]
    image_offset = crossings.inner // (height * width) * vertex_count
    ends = (edges.vertices[crossings.edge] + image_offset[:, None]).reshape(-1)
    x, y, _, w = clip.reshape(-1, 4).index_select(0, ends).view(-1, 2, 4).double().unbind(-1)
    inner_x, inner_y = pixel_centres(crossings.inner, height, width)
    outer_x, outer_y = pixel_centres(crossings.outer, height, width)
    across = (inner_x != outer_x)[:, None]
    along, fixed = torch.where(across, x, y), torch.where(across, y, x)
    line = torch.where(across[:, 0], inner_y, inner_x)
    start = torch.where(across[:, 0], inner_x, inner_y)
    step = torch.where(across[:, 0], outer_x - inner_x, outer_y - inner_y)
    v = fixed - line[:, None] * w
    crossing = (along[:, 0] * v[:, 1] - along[:, 1] * v[:, 0]) / (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0])
    return ((crossing - start) / step).to(clip.dtype)


def blend(image: Tensor, crossings: Crossings, distance: Tensor) -> Tensor:
    """The image, blended across each crossing as in `antialias`; all shares are taken from the original colours."""
    pixels = image.reshape(-1, image.shape[-1])
    outward = distance > 0.5
    target = torch.where(outward, crossings.outer, crossings.inner)
    source = torch.where(outward, crossings.inner, crossings.outer)
    share = torch.where(outward, distance - 0.5, 0.5 - distance)  # unlike abs, nonzero gradient at zero
    total = share.new_zeros(len(pixels)).index_add(0, target, share)
    share = share / total.index_select(0, target).clamp(min=1)
    change = pixels.index_select(0, source) - pixels.index_select(0, target)
    return pixels.index_add(0, target, share[:, None] * change).view(image.shape)
