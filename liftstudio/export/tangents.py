"""Tangents of textured meshes by the convention of MikkTSpace (Mikkelsen 2008), which glTF and Blender use."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.mesh import Mesh


def vertex_tangents(mesh: Mesh, normals: Tensor, uv: Tensor) -> Tensor:
    """Return unit tangents and the bitangents' signs [V, 4] of a mesh that is cut along the seams of its texture.

    A face's tangent is the direction in which u grows, its bitangent that in which v (upwards) grows. A vertex has the
    mean over its faces, each projected into the plane perpendicular to the vertex normal, and weighted by the angle of
    the face's corner in that plane. bitangent = sign * cross(normal, tangent); the sign is negative where the texture
    is mirrored. Vertices are not split: where faces around one disagree, those of larger angle decide the sign, and
    only faces of that sign count.

    normals: [V, 3] unit. uv: [V, 2], v up.
    """
    along_u, is_mirrored, has_area = _face_tangents(mesh, uv)
    corner_normals = normals[mesh.faces]  # [F, 3, 3]
    angles = _corner_angles(mesh.corners(), corner_normals) * has_area[:, None]
    tangents = F.normalize(_flattened(along_u[:, None], corner_normals), dim=-1)
    signs = torch.where(is_mirrored, -1.0, 1.0)[:, None].expand_as(angles)
    flat = mesh.faces.reshape(-1)
    balance = torch.zeros(len(normals)).index_add(0, flat, (angles * signs).reshape(-1))
    sign = torch.where(balance < 0, -1.0, 1.0)
    weights = angles * (signs == sign[mesh.faces])
    summed = torch.zeros_like(normals).index_add(0, flat, (weights[..., None] * tangents).reshape(-1, 3))
    unit = F.normalize(summed, dim=-1)
    unit = torch.where(unit.norm(dim=-1, keepdim=True) > 0.5, unit, _any_perpendicular(normals))
    return torch.cat([unit, sign[:, None]], dim=1)


def _face_tangents(mesh: Mesh, uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return per face the unit direction of growing u [F, 3], whether it is mirrored, and whether it has an area."""
    a, b, c = mesh.corners().unbind(1)
    st = uv[mesh.faces].double()
    s, t = (st[:, 1] - st[:, 0]), (st[:, 2] - st[:, 0])
    area = s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]
    along = (t[:, 1:] * (b - a).double() - s[:, 1:] * (c - a).double()) * area.sign()[:, None]
    return F.normalize(along, dim=-1).float(), area < 0, (area != 0).float()


def _corner_angles(corners: Tensor, normals: Tensor) -> Tensor:
    """Return the angles [F, 3] of the faces' corners, seen along the vertex normals."""
    to_next = F.normalize(_flattened(corners.roll(-1, 1) - corners, normals), dim=-1)
    to_previous = F.normalize(_flattened(corners.roll(1, 1) - corners, normals), dim=-1)
    return torch.acos((to_next * to_previous).sum(-1).clamp(-1, 1))


def _flattened(vectors: Tensor, normals: Tensor) -> Tensor:
    """Return vectors without their parts along unit normals; both [..., 3]."""
    return vectors - (vectors * normals).sum(-1, keepdim=True) * normals


def _any_perpendicular(normals: Tensor) -> Tensor:
    axis = F.one_hot(normals.abs().argmin(dim=-1), 3).to(normals)
    return F.normalize(torch.linalg.cross(normals, axis), dim=-1)
