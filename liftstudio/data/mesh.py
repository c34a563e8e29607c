"""Triangle meshes as tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in world space; faces are counter-clockwise seen from outside.

    vertices: [V, 3] float, world units; may require gradients.
    faces:    [F, 3] int64 indices into `vertices`.
    """

    vertices: Tensor
    faces: Tensor

    def corners(self) -> Tensor:
        """Return the positions of the three corners of every face, [F, 3, 3]."""
        return self.vertices[self.faces]

    def face_area_vectors(self) -> Tensor:
        """Return the outward normals of the faces times their areas (world units squared), [F, 3]."""
        a, b, c = self.corners().unbind(1)
        return 0.5 * torch.linalg.cross(b - a, c - a)

    def vertex_normals(self) -> Tensor:
        """Return unit outward normals [V, 3]: at each vertex the area-weighted mean over its faces."""
        areas = self.face_area_vectors()
        summed = torch.zeros_like(self.vertices)
        for corner in range(3):
            summed = summed.index_add(0, self.faces[:, corner], areas)
        return F.normalize(summed, dim=-1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random points [count, 3], uniform over the surface."""
        areas = self.face_area_vectors().norm(dim=-1)
        chosen = torch.multinomial(areas, count, replacement=True, generator=generator)
        u, v = torch.rand(2, count, 1, generator=generator, device=areas.device)
        folded = u + v > 1
        u, v = torch.where(folded, 1 - u, u), torch.where(folded, 1 - v, v)
        a, b, c = self.corners()[chosen].unbind(1)
        return a + u * (b - a) + v * (c - a)

    def to(self, device: torch.device | str) -> "Mesh":
        """Return the mesh with its tensors on `device`."""
        return Mesh(self.vertices.to(device), self.faces.to(device))

    def float(self) -> "Mesh":
        """Return the mesh with float32 vertices."""
        return Mesh(self.vertices.float(), self.faces)

    def detach(self) -> "Mesh":
        """Return the mesh detached from the graph of its vertices."""
        return Mesh(self.vertices.detach(), self.faces)
