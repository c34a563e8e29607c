"""Rendering of finished meshes, unlit: with a texture, colours of vertices, or any colour function."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area
from liftstudio.data.mesh import Mesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image

SUPERSAMPLING = 2

Pictures = tuple[Tensor, Tensor]  # images [V, H, W, 3] over white and masks [V, H, W, 1], in [0, 1]


def render_trimesh(mesh: trimesh.Trimesh, cameras: Cameras) -> Pictures:
    """Return images and masks of a y-up mesh, as glTF has it, in its base colours: texture, vertices or one colour.

    The cameras are in the run's world, which is z-up.
    """
    x, y, z = np.asarray(mesh.vertices, np.float32).T
    own = Mesh(torch.from_numpy(np.stack([x, -z, y], axis=1)), torch.from_numpy(np.asarray(mesh.faces)).long())
    visual = mesh.visual
    texture = getattr(getattr(visual, "material", None), "baseColorTexture", None)
    if texture is None:
        colors = visual.to_color() if visual.kind == "texture" else visual
        srgb = torch.from_numpy(np.asarray(colors.vertex_colors, np.float32)[:, :3] / 255)
        return render_colored(own, srgb, lambda each: each, cameras)
    uv = torch.from_numpy(np.asarray(visual.uv, np.float32))
    picture = torch.from_numpy(np.asarray(texture.convert("RGB"), np.float32) / 255)
    return render_colored(own, uv, lambda places: texels(picture, places), cameras)


def texels(texture: Tensor, uv: Tensor) -> Tensor:
    """Look up colours [N, 3] of a texture [H, W, 3] at uv [N, 2], v upwards: bilinear, with clamped borders."""
    places = uv * torch.tensor([2.0, -2.0]) + torch.tensor([-1.0, 1.0])
    image = texture.permute(2, 0, 1)[None]
    return F.grid_sample(image, places[None, None], padding_mode="border", align_corners=False)[0, :, 0].T


def render_colored(mesh: Mesh, attributes: Tensor, color: Callable[[Tensor], Tensor], cameras: Cameras) -> Pictures:
    """Render a mesh whose colour [N, 3] is a function of vertex attributes [V, C], interpolated to [N, C]."""
    fine = cameras.resized(cameras.height * SUPERSAMPLING, cameras.width * SUPERSAMPLING)
    frames = []
    for index in range(len(cameras)):
        clip = fine[index : index + 1].clip(mesh.vertices)
        seen = fragments(clip, mesh.faces, rasterize(clip, mesh.faces, fine.height, fine.width))
        colors = color(interpolate(attributes, mesh.faces, seen))
        image = scatter_image(F.pad(colors, (0, 1), value=1.0), seen)
        frames.append(resize_area(image[0], cameras.height, cameras.width))
    premultiplied = torch.stack(frames)
    alpha = premultiplied[..., 3:]
    return premultiplied[..., :3] + 1 - alpha, alpha
