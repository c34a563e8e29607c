# mypy: disable-error-code="no-untyped-def, valid-type, arg-type, call-overload, index, misc, operator"
# Kernels are written in Warp's language, which the type checker reads as Python.
"""Projection onto a mesh by Warp's bounding volume hierarchy, on the CPU and CUDA; see `project` of this package."""

import torch
import warp as wp
from torch import Tensor

from liftstudio.ops.warp_runtime import launch

wp.set_module_options({"enable_backward": False})


def project(vertices: Tensor, faces: Tensor, points: Tensor, directions: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """See `liftstudio.ops.projection.project`."""
    device = points.device
    count = len(points)
    found = torch.zeros(count, dtype=torch.int32, device=device)
    weights = torch.zeros(count, 3, device=device)
    mesh = wp.Mesh(
        wp.from_torch(vertices.detach().float().contiguous(), dtype=wp.vec3),
        wp.from_torch(faces.to(torch.int32).contiguous().reshape(-1)),
    )
    positions, along = points.detach().float().contiguous(), directions.detach().float().contiguous()
    launch(find, count, mesh.id, positions, along, float(reach), found, weights, device=device)
    return found.long(), weights


@wp.kernel
def find(
    mesh: wp.uint64,
    points: wp.array2d(dtype=float),
    directions: wp.array2d(dtype=float),
    reach: float,
    face: wp.array(dtype=int),
    weights: wp.array2d(dtype=float),
):
    i = wp.tid()
    point = wp.vec3(points[i, 0], points[i, 1], points[i, 2])
    direction = wp.vec3(directions[i, 0], directions[i, 1], directions[i, 2])
    nearest = reach
    best = -1
    u = 0.0
    v = 0.0
    for side in range(2):
        ray = wp.mesh_query_ray(mesh, point, direction * (1.0 - 2.0 * float(side)), nearest)
        if ray.result and ray.t < nearest and wp.dot(ray.normal, direction) > 0.0:
            nearest = ray.t
            best = ray.face
            u = ray.u
            v = ray.v
    if best < 0:
        closest = wp.mesh_query_point_no_sign(mesh, point, 1.0e10)
        best = closest.face
        u = closest.u
        v = closest.v
    face[i] = best
    weights[i, 0] = u
    weights[i, 1] = v
    weights[i, 2] = 1.0 - u - v
