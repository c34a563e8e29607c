"""Search for visible silhouette crossings in plain torch, in float64."""

import torch
from torch import Tensor

from liftstudio.ops.rasterization.reference import DEPTH_STEPS, EMPTY, screen_vertices

# A crossing's key is (depth step << EDGE_BITS) | edge << 2 | (edge runs along the pair) << 1 | (inner pixel is second).
# Its minimum is the nearest edge. An edge that runs along the pair rather than across it hides those behind it but is
# not counted: it is counted for the pairs that it runs across.
EDGE_BITS = 31
# Edges are clipped where w falls below this fraction of the larger w, so that their extent in pixels is finite.
MIN_W = 1e-6


def find_crossings(
    clip: Tensor, faces: Tensor, face_index: Tensor, edge_vertices: Tensor, opposite: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The fields (inner, outer, edge) of `Crossings`, each [K] int64."""
    _, height, width = face_index.shape
    keys = []
    for vertices, seen in zip(screen_vertices(clip, height, width), face_index, strict=True):
        depth = _depth_image(vertices, faces, seen)
        edge, side, line = _silhouettes(vertices, edge_vertices, opposite)
        ends = vertices[edge_vertices[edge]]
        steep = line[:, 0].abs() >= line[:, 1].abs()
        label = edge << 2
        keys.append(_nearest(ends, line, side, label | (~steep).long() << 1, depth))
        # Columns are the rows of the transposed image.
        swap = torch.tensor([1, 0, 2, 3], device=clip.device)
        keys.append(_nearest(ends[..., swap], line[:, swap[:3]], side, label | steep.long() << 1, depth.T).T)
    return _unpack(torch.stack(keys).view(-1, 2, height, width)) if keys else (face_index.new_zeros(0).long(),) * 3


def _depth_image(vertices: Tensor, faces: Tensor, seen: Tensor) -> Tensor:
    """Depth z / w [H, W] of the visible faces' planes at the pixel centres, infinite where empty."""
    row, column = (seen >= 0).nonzero().unbind(1)
    corners = vertices[faces[seen[row, column].long()]]
    p, z = corners[..., :3], corners[..., 3]
    edges = torch.stack([torch.linalg.cross(p[:, (i + 1) % 3], p[:, (i + 2) % 3]) for i in range(3)], dim=1)
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)], dim=1).double()
    det = (edges[:, 0] * p[:, 0]).sum(-1)
    depth = ((edges * z[..., None]).sum(1) * pixel).sum(-1) / det
    return torch.full(seen.shape, torch.inf, dtype=torch.float64, device=seen.device).index_put((row, column), depth)


def _silhouettes(vertices: Tensor, edge_vertices: Tensor, opposite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Silhouettes: edge [S], side [S] and line [S, 3]; line . (x, y, 1) has the sign of `side` on the inner side."""
    p = vertices[:, :3]
    line = torch.linalg.cross(*p[edge_vertices].unbind(1))
    first = (line * p[opposite[:, 0]]).sum(-1)
    second = torch.where(opposite[:, 1] < 0, first, (line * p[opposite[:, 1]]).sum(-1))
    edge = (first * second > 0).nonzero()[:, 0]
    return edge, first[edge], line[edge]


def _nearest(ends: Tensor, line: Tensor, side: Tensor, label: Tensor, depth: Tensor) -> Tensor:
    """Keys [H, W] of the nearest visible crossing between each pixel and its right neighbour; EMPTY if none."""
    height, width = depth.shape
    walked, row = _rows_crossed(ends, height)
    a, b = ends[walked].unbind(1)
    v_a, v_b = a[:, 1] - (row + 0.5) * a[:, 2], b[:, 1] - (row + 0.5) * b[:, 2]
    scale = a[:, 2] * v_b - b[:, 2] * v_a
    crossing = (a[:, 0] * v_b - b[:, 0] * v_a) / scale
    depth_edge = (a[:, 3] * v_b - b[:, 3] * v_a) / scale
    inside = (crossing >= 0.5) & (crossing < width - 0.5) & (depth_edge >= -1) & (depth_edge <= 1)
    walked, row, crossing, depth_edge = walked[inside], row[inside], crossing[inside], depth_edge[inside]
    column = (crossing - 0.5).floor().long()
    inner_second = (line[walked, 0] > 0) == (side[walked] > 0)
    left, right = depth[row, column], depth[row, column + 1]
    depth_inner, depth_outer = torch.where(inner_second, right, left), torch.where(inner_second, left, right)
    visible = (depth_inner < depth_outer) & (depth_edge < depth_outer)
    step = ((depth_edge + 1) * DEPTH_STEPS).long()
    key = (step << EDGE_BITS) | label[walked] | inner_second.long()
    nearest = torch.full((height * width,), EMPTY, dtype=torch.int64, device=depth.device)
    pair = row * width + column
    return nearest.scatter_reduce(0, pair[visible], key[visible], "amin").view(height, width)


def _rows_crossed(ends: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Pairs (index into `ends`, row), one for every row of pixel centres that an edge [S, 2, (X, Y, w, z)] crosses."""
    y, w = ends[..., 1], ends[..., 2]
    min_w = MIN_W * w.amax(1, keepdim=True)
    # An end behind the eye is moved along the edge to where w = `min_w`.
    share = (min_w - w) / (w.flip(1) - w)
    y = torch.where(w < min_w, (y + share * (y.flip(1) - y)) / min_w, y / w)
    low, high = y.amin(1) - 0.5, y.amax(1) - 0.5
    in_front = (min_w[:, 0] > 0) & low.isfinite() & high.isfinite()
    first, last = (end.where(in_front, torch.zeros_like(end)).clamp(0, height).ceil().long() for end in (low, high))
    count = last - first
    walked = torch.arange(len(ends), device=ends.device).repeat_interleave(count)
    start = (count.cumsum(0) - count)[walked]
    return walked, first[walked] + torch.arange(len(walked), device=ends.device) - start


def _unpack(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Crossings from keys [B, 2, H, W]; the second axis is (right neighbour, lower neighbour)."""
    _, _, height, width = keys.shape
    image, downward, row, column = ((keys != EMPTY) & (keys & 2 == 0)).nonzero().unbind(1)
    key = keys[image, downward, row, column]
    first = (image * height + row) * width + column
    second = first + torch.where(downward == 1, width, 1)
    inner_second = (key & 1) == 1
    inner, outer = torch.where(inner_second, second, first), torch.where(inner_second, first, second)
    return inner, outer, (key & (2**EDGE_BITS - 1)) >> 2
