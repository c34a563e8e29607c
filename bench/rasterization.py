"""Rasterisation against Embree (build and cast), and its gradients against plain PyTorch."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.timing import Case
from liftstudio.data.mesh import Mesh
from liftstudio.ops.backends import use_backend
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image

DISTANCE, FOV_DEG = 3.4, 45.0
SIZES = {"20k triangles, 256^2": (100, 256), "20k triangles, 512^2": (100, 512), "99k triangles, 256^2": (223, 256)}


def bumpy_sphere(columns: int, device: torch.device) -> Mesh:
    """Return a mesh of about 2 columns^2 triangles that cover 44 % of the view of `clip_positions`."""
    import trimesh

    mesh = trimesh.creation.uv_sphere(count=[columns // 2 + 1, columns])
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    points = points * (1 + 0.1 * torch.sin(5 * points[:, :1]) * torch.cos(4 * points[:, 1:2] + 1))
    return Mesh(points, torch.tensor(mesh.faces)).to(device)


def clip_positions(vertices: Tensor) -> Tensor:
    """Return clip coordinates [1, V, 4] for a camera at DISTANCE that looks along -z; near 0.1, far 100."""
    scale = 1 / math.tan(math.radians(FOV_DEG / 2))
    x, y, z = vertices.unbind(-1)
    w = DISTANCE - z
    return torch.stack([x * scale, y * scale, (100.1 / 99.9) * w - 20 / 99.9, w], dim=-1)[None]


def embree_cast(mesh: Mesh, size: int) -> Callable[[], object]:
    """Return a function that builds an Embree scene and casts one ray per pixel, as changing topology requires."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise SystemExit("bench.rasterization compares with Embree; install it with: pip install embreex") from error
    half = math.tan(math.radians(FOV_DEG / 2))
    centres = half * ((2 * np.arange(size, dtype=np.float32) + 1) / size - 1)
    x, y = np.meshgrid(centres, -centres)
    directions = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
    origins = np.tile(np.array([[0, 0, DISTANCE]], np.float32), (len(directions), 1))
    vertices, faces = mesh.vertices.numpy(), mesh.faces.numpy()

    def cast() -> object:
        scene = EmbreeScene()
        TriangleMesh(scene, vertices[faces])
        return scene.run(origins, directions, query="INTERSECT")

    return cast


def on_reference(fn: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with use_backend("reference"):
            return fn()

    return run


def _visibility(name: str, device: torch.device) -> Case:
    columns, size = SIZES[name]
    mesh = bumpy_sphere(columns, device)
    clip = clip_positions(mesh.vertices)

    def fast() -> object:
        return rasterize(clip, mesh.faces, size, size)

    if device.type == "cpu":
        return Case("rasterization", name, fast, embree_cast(mesh, size), "embree build + cast", 5.0)
    return Case("rasterization", name, fast, on_reference(fast), "plain PyTorch, brute force")


def _position_image(device: torch.device) -> Case:
    mesh = bumpy_sphere(100, device)
    vertices = mesh.vertices.requires_grad_()
    face_index = rasterize(clip_positions(vertices), mesh.faces, 256, 256)

    def step() -> None:
        packed = fragments(clip_positions(vertices), mesh.faces, face_index)
        scatter_image(interpolate(vertices, mesh.faces, packed), packed).sum().backward()

    return Case("interpolation f+b", "20k triangles, 256^2", step, on_reference(step), "plain PyTorch, index_add_")


def cases(device: torch.device) -> list[Case]:
    return [*(_visibility(name, device) for name in SIZES), _position_image(device)]
