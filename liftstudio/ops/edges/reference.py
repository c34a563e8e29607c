"""Edge adjacency by sorting, in plain torch."""

import torch
from torch import Tensor


def edge_adjacency(faces: Tensor, vertex_count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The fields (vertices, faces, opposite) of `Edges`, each [E, 2] int64."""
    real = ((faces != faces.roll(1, dims=1)).all(1)).nonzero()[:, 0]
    opposite, face = faces[real].reshape(-1), real.repeat_interleave(3)
    sides = torch.stack([faces[real].roll(-1, dims=1), faces[real].roll(-2, dims=1)], dim=2).reshape(-1, 2)
    sides = sides.sort(dim=1).values
    key, order = (sides[:, 0] * vertex_count + sides[:, 1]).sort(stable=True)

    position = torch.arange(len(key), device=key.device)
    starts_run = torch.ones_like(key, dtype=torch.bool)
    starts_run[1:] = key[1:] != key[:-1]
    rank = position - torch.where(starts_run, position, 0).cummax(0).values
    first = position[rank % 2 == 0]
    second = (first + 1).clamp(max=max(len(key) - 1, 0))
    paired = (key[second] == key[first]) & (second > first)

    def pair(values: Tensor) -> Tensor:
        ordered = values[order]
        return torch.stack([ordered[first], torch.where(paired, ordered[second], -1)], dim=1)

    return sides[order][first], pair(face), pair(opposite)
