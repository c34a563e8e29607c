"""The preview of a run: the volume of the prior as a mesh, coloured by the reference views, before any optimisation."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import grid, save_image, save_video
from liftstudio.data.mesh import Mesh
from liftstudio.data.orbits import static
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.export.cleanup import drop_floaters
from liftstudio.export.writers import write_colored_glb
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.marching_cubes import marching_cubes
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image

LEAST_AREA = 0.01  # share of the surface below which a separate piece is dropped
PIXELS = 256  # across the pictures of the preview, and at most across the views whose colours it takes
FRAMES, FPS = 36, 12  # of the turntable
SIDES = 8  # pictures on the sheet
GRAZING = 0.1  # cosine between normal and viewing direction below which a view shows no colour of a surface
INPUT_WEIGHT = 20.0  # of the colours of the input view, relative to those of generated views
TOLERANCE = 0.03  # how far a point may lie behind the visible surface and still be seen, world units


def preview_mesh(inside: Tensor) -> Mesh:
    """Return the surface of what a prior says is inside the object, [G, G, G], see `ReferenceViews`."""
    outermost = 1 - 1 / len(inside)  # centre of the last cell
    corner = torch.full((3,), outermost)
    closed = F.pad(inside[1:-1, 1:-1, 1:-1], [1] * 6, value=-1.0)
    return drop_floaters(marching_cubes(-closed, torch.stack([-corner, corner])), LEAST_AREA)[0]


def seen_colors(mesh: Mesh, views: ReferenceViews) -> Tensor:
    """Return sRGB colours [V, 3] in [0, 1] of the vertices: the mean of the views that see them, by how directly.

    Colours of the input view count far more. A vertex that no view sees has the colour of the nearest one that is seen.
    """
    normals = mesh.vertex_normals()
    total, weight = torch.zeros(len(normals), 3), torch.zeros(len(normals), 1)
    shrink = max(1, views.cameras.width // PIXELS)
    cameras = views.cameras.resized(views.cameras.height // shrink, views.cameras.width // shrink)
    for index in range(len(views)):
        camera = cameras[[index]]
        share = _visibility(mesh, normals, camera)
        pixels, _ = camera.project(mesh.vertices)
        size = torch.tensor([camera.width, camera.height])
        sampled = _sampled(torch.cat([views.images[index], views.masks[index]], dim=-1), 2 * pixels[0] / size - 1)
        share = share * sampled[:, 3:] * (INPUT_WEIGHT if index in views.input_views else 1.0)
        total, weight = total + share * sampled[:, :3], weight + share
    colors = total / weight.clamp_min(1e-6)
    seen = weight[:, 0] > 1e-3
    if seen.any() and not seen.all():
        nearest = cKDTree(mesh.vertices[seen].numpy()).query(mesh.vertices[~seen].numpy())[1]
        colors[~seen] = colors[seen][torch.from_numpy(np.asarray(nearest))]
    return colors


def render_colors(mesh: Mesh, colors: Tensor, cameras: Cameras) -> Tensor:
    """Return unlit sRGB pictures [B, H, W, 3] over white of a mesh with vertex colours [V, 3], all in [0, 1]."""
    clip = cameras.clip(mesh.vertices)
    visible = fragments(clip, mesh.faces, rasterize(clip, mesh.faces, cameras.height, cameras.width))
    return scatter_image(interpolate(colors, mesh.faces, visible), visible, 1.0)


def save_preview(folder: Path, views: ReferenceViews) -> None:
    """Write preview.mp4 (turntable), preview.png (sides) and, last, preview.glb (vertex colours) to a folder.

    views: with a volume.

    Raises:
        OSError: the folder cannot be written.
    """
    assert views.inside is not None
    mesh = preview_mesh(views.inside)
    colors = seen_colors(mesh, views)
    distance, fov_deg = (float(each.mean()) for each in (views.cameras.distance, views.cameras.fov_deg))
    cameras = orbit_cameras(*static(FRAMES, 15.0), distance, fov_deg, PIXELS, PIXELS)
    frames = render_colors(mesh, colors, cameras)
    save_video(folder / "preview.mp4", frames, FPS)
    sides = [frames[FRAMES * (side + 1) // SIDES - 1] for side in range(-1, SIDES - 1)]
    save_image(folder / "preview.png", grid([sides[: SIDES // 2], sides[SIDES // 2 :]]))
    write_colored_glb(folder / "preview.glb", mesh, colors)


def _visibility(mesh: Mesh, normals: Tensor, camera: Cameras) -> Tensor:
    """Return how directly a camera sees each vertex, [V, 1] in [0, 1]; 0 if it is hidden or turned away."""
    clip = camera.clip(mesh.vertices)
    visible = fragments(clip, mesh.faces, rasterize(clip, mesh.faces, camera.height, camera.width))
    pixels, depth = camera.project(mesh.vertices)
    nearest = scatter_image(interpolate(depth[0][:, None], mesh.faces, visible), visible, float("inf"))[0]
    column, row = (pixels[0] - 0.5).round().long().unbind(-1)
    front = nearest[row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1)]
    toward = F.normalize(camera.centers - mesh.vertices, dim=-1)
    cosine = (toward * normals).sum(-1, keepdim=True)
    return ((cosine - GRAZING) / (1 - GRAZING)).clamp_min(0).square() * (depth[0][:, None] < front + TOLERANCE)


def _sampled(image: Tensor, where: Tensor) -> Tensor:
    """Return an image [H, W, C] at positions [N, 2] in [-1, 1], bilinear: [N, C]."""
    found = F.grid_sample(image.permute(2, 0, 1)[None], where[None, None], align_corners=False)
    return found[0, :, 0].T
