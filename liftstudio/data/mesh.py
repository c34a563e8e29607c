"""A triangle mesh as tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """Triangles in world space, counter-clockwise seen from outside.

    vertices: [V, 3] float, world units; may require gradients.
    faces:    [F, 3] int64 indices into `vertices`.
    """

    vertices: Tensor
    faces: Tensor

    def corners(self) -> Tensor:
        """[F, 3, 3]: the three corner positions of every face."""
        return self.vertices[self.faces]

    def face_area_vectors(self) -> Tensor:
        """[F, 3]: outward normals scaled by the face's area (world units squared)."""
        a, b, c = self.corners().unbind(1)
        return 0.5 * torch.linalg.cross(b - a, c - a)

    def vertex_normals(self) -> Tensor:
        """[V, 3] unit outward normals, the area-weighted mean over the faces around each vertex."""
        areas = self.face_area_vectors()
        summed = torch.zeros_like(self.vertices)
        for corner in range(3):
            summed = summed.index_add(0, self.faces[:, corner], areas)
        return F.normalize(summed, dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, 3] points spread evenly over the surface."""
        areas = self.face_area_vectors().norm(dim=-1)
        chosen = torch.multinomial(areas, count, replacement=True, generator=generator)
        u, v = torch.rand(2, count, 1, generator=generator, device=areas.device)
        folded = u + v > 1
        u, v = torch.where(folded, 1 - u, u), torch.where(folded, 1 - v, v)
        a, b, c = self.corners()[chosen].unbind(1)
        return a + u * (b - a) + v * (c - a)

    def to(self, device: torch.device | str) -> "Mesh":
        """The same mesh with its tensors on `device`."""
        return Mesh(self.vertices.to(device), self.faces.to(device))

    def detach(self) -> "Mesh":
        """The same mesh without gradients."""
        return Mesh(self.vertices.detach(), self.faces)
