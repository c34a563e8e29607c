"""Projection onto a mesh in plain torch: every point against every face; see `project` of this package."""

import torch
from torch import Tensor


def project(vertices: Tensor, faces: Tensor, points: Tensor, directions: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """See `liftstudio.ops.projection.project`."""
    corners = vertices[faces]
    face, weights = _closest(corners, points)
    nearest = points.new_full((len(points),), reach)
    for sign in (1.0, -1.0):
        distance, hit, at = _first_hit(corners, points, sign * directions)
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[hit]
        better = (distance < nearest) & ((normals * directions).sum(-1) > 0)
        nearest = torch.where(better, distance, nearest)
        face, weights = torch.where(better, hit, face), torch.where(better[:, None], at, weights)
    return face, weights


def _first_hit(corners: Tensor, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance [N] (infinite: none), face [N] and barycentric coordinates [N, 3] of each ray's first hit.

    Moeller and Trumbore 1997, "Fast, minimum storage ray-triangle intersection".
    """
    origin, along, across = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    step = directions[:, None]  # [N, 1, 3] against [F, 3]
    side = torch.linalg.cross(step, across[None].expand(len(points), -1, -1))
    scale = (side * along).sum(-1)
    from_origin = points[:, None] - origin
    v = (from_origin * side).sum(-1) / scale
    turned = torch.linalg.cross(from_origin, along[None].expand_as(from_origin))
    w = (step * turned).sum(-1) / scale
    distance = (across * turned).sum(-1) / scale
    is_hit = (scale != 0) & (v >= 0) & (w >= 0) & (v + w <= 1) & (distance >= 0)
    first, face = torch.where(is_hit, distance, torch.inf).min(1)
    row = torch.arange(len(points))
    v, w = v[row, face], w[row, face]
    return first, face, torch.stack([1 - v - w, v, w], dim=1)


def _closest(corners: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return face [N] and barycentric coordinates [N, 3] of the closest point of each point."""
    candidates = [_inside(corners, points), *(_on_edge(corners, points, corner) for corner in range(3))]
    weights = torch.stack(candidates, dim=2)  # [N, F, candidate, corner]
    found = torch.einsum("nfkc,fcd->nfkd", weights, corners)
    distance = (found - points[:, None, None]).norm(dim=-1)
    distance = torch.where((weights >= 0).all(-1), distance, torch.inf)  # of points in the face's plane beside it
    best = distance.flatten(1).argmin(1)
    face, candidate = best // len(candidates), best % len(candidates)
    return face, weights[torch.arange(len(points)), face, candidate]


def _inside(corners: Tensor, points: Tensor) -> Tensor:
    """Return barycentric coordinates [N, F, 3] of the points' feet in the faces' planes; -1 for faces without area."""
    along, across = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = torch.linalg.cross(along, across)
    area = normal.square().sum(-1)
    offset = points[:, None] - corners[:, 0]
    v = (torch.linalg.cross(offset, across[None].expand_as(offset)) * normal).sum(-1) / area
    w = (torch.linalg.cross(along[None].expand_as(offset), offset) * normal).sum(-1) / area
    weights = torch.stack([1 - v - w, v, w], dim=-1)
    return torch.where((area > 0)[:, None], weights, -1.0)


def _on_edge(corners: Tensor, points: Tensor, corner: int) -> Tensor:
    """Return barycentric coordinates [N, F, 3] of the closest points on the edges from a corner to the next."""
    start, edge = corners[:, corner], corners[:, (corner + 1) % 3] - corners[:, corner]
    length = edge.square().sum(-1).clamp_min(1e-30)
    share = (((points[:, None] - start) * edge).sum(-1) / length).clamp(0, 1)
    weights = torch.zeros(*share.shape, 3)
    weights[..., corner], weights[..., (corner + 1) % 3] = 1 - share, share
    return weights
