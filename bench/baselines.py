"""Baselines without a prior: inflated silhouette, mean of the other objects, repeated input view."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csr_array, diags_array, eye_array, kron
from scipy.sparse.linalg import spsolve
from torch import Tensor

from bench.captures import Subject
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area
from liftstudio.data.mesh import Mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.voxels import occupancy
from liftstudio.ops.marching_cubes import marching_cubes
from liftstudio.renderers.textured import Pictures, render_colored, texels
from liftstudio.run.truth import moved_mesh

SILHOUETTE = 128  # width and height in pixels of the silhouette that is inflated
GRID = 128  # points along each axis of the cube [-1, 1] in which objects are averaged
MAJORITY = 0.5  # share of the other objects above which a point is in the mean object
SAME_POSE = 0.02  # tolerance for equal poses: world units, and components of unit axes
SAME_LENS = 0.01  # tolerance for equal focal lengths and principal points, share of the image width


def repeated(views: ReferenceViews) -> Pictures:
    """Return the input view at all cameras."""
    assert views.input_view is not None
    chosen = torch.full((len(views),), views.input_view)
    return views.over(1.0)[chosen], views.masks[chosen]


def inflated(subject: Subject) -> tuple[Mesh, Pictures]:
    """Return the silhouette as a rounded body, and its views with the input image projected through to the back."""
    views = subject.views
    assert views.input_view is not None
    camera = views.cameras[[views.input_view]]
    mesh = inflate(views.masks[views.input_view], camera)
    picture = spread(views.images[views.input_view], views.masks[views.input_view])

    def color(points: Tensor) -> Tensor:
        pixels, _ = camera.project(points)
        uv = pixels[0] / torch.tensor([camera.width, camera.height])
        return texels(picture, torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=-1))

    return mesh, render_colored(mesh, mesh.vertices, color, views.cameras)


def spread(image: Tensor, mask: Tensor) -> Tensor:
    """Fill the image [H, W, 3] outside the mask [H, W, 1] with the colour of the nearest pixel inside."""
    outside = mask[..., 0].numpy() <= 0.5
    rows, columns = distance_transform_edt(outside, return_distances=False, return_indices=True)
    return image[torch.from_numpy(rows), torch.from_numpy(columns)]


def inflate(mask: Tensor, camera: Cameras) -> Mesh:
    """Inflate a square silhouette [H, W, 1] to a body, symmetric about the plane through the origin facing the camera.

    Its half depth is sqrt(u), with Laplacian u = -4 inside and u = 0 on the outline: a disc becomes a ball.
    """
    # One empty pixel of padding, so that a silhouette cut by the border also gives a closed mesh.
    inside = np.pad(resize_area(mask, SILHOUETTE, SILHOUETTE)[..., 0].numpy() > 0.5, 1)
    squared = poisson(inside)
    half = int(np.ceil(np.sqrt(squared.max()))) + 1
    depths = np.arange(-half, half) + 0.5  # pixels, away from the camera
    values = torch.from_numpy(depths**2 - np.where(inside, squared, -1.0)[..., None]).float()
    edge = SILHOUETTE + 0.5
    box = torch.tensor([[-0.5, -0.5, depths[0]], [edge, edge, depths[-1]]], dtype=torch.float32)
    surface = marching_cubes(values.transpose(0, 1), box)  # column, row, depth: right-handed, in the camera's frame
    return Mesh(_in_world(surface.vertices, camera.resized(SILHOUETTE, SILHOUETTE)), surface.faces)


def poisson(inside: np.ndarray) -> np.ndarray:
    """Solve for u [H, W] float64 with Laplacian -4 per pixel where `inside`, and u = 0 elsewhere."""
    height, width = inside.shape
    lines = [diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(size, size)) for size in (height, width)]
    laplacian = csr_array(kron(lines[0], eye_array(width)) + kron(eye_array(height), lines[1]))
    chosen = np.flatnonzero(inside)
    solution = np.zeros(height * width)
    solution[chosen] = spsolve(laplacian[chosen][:, chosen].tocsc(), np.full(len(chosen), 4.0))
    return solution.reshape(height, width)


def mean_mesh(subject: Subject, others: Sequence[Subject]) -> Mesh:
    """Return the region inside most of the other objects, with all input views aligned.

    If no point is inside more than half of them, the threshold is half of the largest share.

    Args:
        others: at least one of them has a mesh.
    """
    meshes = [other.truth.mesh for other in others if other.truth.mesh is not None]
    share = np.mean([occupancy(mesh, GRID) for mesh in meshes], axis=0)
    level = min(MAJORITY, float(share.max()) / 2)
    corners = torch.tensor([[-1.0] * 3, [1.0 - 2.0 / GRID] * 3])
    mesh = marching_cubes(torch.from_numpy(level - share).float(), corners)
    return moved_mesh(mesh, torch.linalg.inv(subject.truth.unit_from_world))


def mean_pictures(subject: Subject, others: Sequence[Subject]) -> Pictures | None:
    """Return the mean views of the other captures; None if their cameras differ."""
    if not all(same_cameras(subject.views.cameras, other.views.cameras) for other in others):
        return None
    images = torch.stack([other.views.over(1.0) for other in others]).mean(dim=0)
    return images, torch.stack([other.views.masks for other in others]).mean(dim=0)


def same_cameras(a: Cameras, b: Cameras) -> bool:
    """Return whether cameras have the same number and image size, and nearly equal poses and lenses."""
    if (len(a), a.height, a.width) != (len(b), b.height, b.width):
        return False
    lens, other_lens = (torch.stack([each.fx, each.fy, each.cx, each.cy]) / each.width for each in (a, b))
    return bool((a.c2w - b.c2w).abs().max() < SAME_POSE and (lens - other_lens).abs().max() < SAME_LENS)


def _in_world(points: Tensor, camera: Cameras) -> Tensor:
    """Map points [N, 3] to world; they are column, row and depth behind the plane facing the camera, in pixels.

    The plane passes through the origin. The distance of a pixel from the axis is that of its ray from the origin, since
    outline rays are tangent to the body; thus the outline of a ball gives its radius.
    """
    distance, focal = camera.distance[0], camera.fx[0]
    across, down = points[:, 0] - camera.cx[0], points[:, 1] - camera.cy[0]
    scale = distance / focal / torch.sqrt(1 + (across.square() + down.square()) / focal.square())
    local = torch.stack([across * scale, -down * scale, -distance - points[:, 2] * scale], dim=-1)
    return local @ camera.c2w[0, :3, :3].T + camera.centers[0]
