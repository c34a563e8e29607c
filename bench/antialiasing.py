"""Edge adjacency and antialiasing, forward and backward, against plain PyTorch."""

import torch

from bench.rasterization import bumpy_sphere, clip_positions, on_reference
from bench.timing import Case
from liftstudio.ops.antialiasing import antialias
from liftstudio.ops.edges import edge_adjacency
from liftstudio.ops.rasterization import rasterize


def _adjacency(columns: int, device: torch.device) -> Case:
    mesh = bumpy_sphere(columns, device)

    def fast() -> object:
        return edge_adjacency(mesh.faces, len(mesh.vertices))

    return Case("edge adjacency", f"{len(mesh.faces)} triangles", fast, on_reference(fast), "plain PyTorch, sort")


def _antialiasing(columns: int, size: int, device: torch.device) -> Case:
    mesh = bumpy_sphere(columns, device)
    clip = clip_positions(mesh.vertices)
    face_index = rasterize(clip, mesh.faces, size, size)
    image = torch.rand(1, size, size, 4, device=device).requires_grad_()
    clip.requires_grad_()

    def step() -> None:
        antialias(image, clip, mesh.faces, face_index).sum().backward()

    name = f"{len(mesh.faces)} triangles, {size}^2"
    return Case("antialiasing f+b", name, step, on_reference(step), "plain PyTorch")


def cases(device: torch.device) -> list[Case]:
    return [
        *(_adjacency(columns, device) for columns in (100, 223)),
        *(_antialiasing(columns, size, device) for columns, size in ((100, 256), (100, 512), (223, 256))),
    ]
