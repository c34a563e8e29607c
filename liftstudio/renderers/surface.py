"""Rasterisation of meshes."""

from collections.abc import Set
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render, join
from liftstudio.materials.base import RandomShading, ShadingPoints
from liftstudio.ops.antialiasing import antialias
from liftstudio.ops.edges import Edges, edge_adjacency
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image
from liftstudio.renderers.base import Renderer
from liftstudio.renderers.scene import Scene

PIXELS = 2**16  # per batch: small images are rendered together, which costs little more than one; large ones singly


@register("surface")
class SurfaceRenderer(Renderer):
    """Rasterises the geometry's mesh and shades the visible points; silhouettes are antialiased and differentiable."""

    @dataclass
    class Config(Renderer.Config):
        pass

    def __init__(self, config: Config, *, box: Tensor) -> None:
        super().__init__()

    def render(
        self,
        scene: Scene,
        cameras: Cameras,
        *,
        passes: Set[str] = frozenset(),
        generator: torch.Generator | None = None,
        shading: RandomShading | None = None,
    ) -> Render:
        """Render the geometry's mesh, a batch of cameras at a time.

        All passes are always returned, except `distortion` and `orientation`, which only volumes have.

        Raises:
            InputError: the mesh has no faces.
        """
        mesh = scene.geometry.mesh()
        if not len(mesh.faces):
            raise InputError(f"there is no surface to render: {scene.geometry.describe_level()}")
        normals, edges = mesh.vertex_normals(), edge_adjacency(mesh.faces, len(mesh.vertices))
        several = max(1, PIXELS // (cameras.height * cameras.width))
        starts = range(0, len(cameras), several)
        return join([render_mesh(mesh, scene, cameras[i : i + several], normals, edges, shading) for i in starts])


def render_mesh(
    mesh: Mesh,
    scene: Scene,
    cameras: Cameras,
    vertex_normals: Tensor | None = None,
    edges: Edges | None = None,
    shading: RandomShading | None = None,
) -> Render:
    """Render a mesh with the appearance, light and background of a scene.

    vertex_normals, edges: of the mesh; computed if None.
    shading: random shading of a training step.
    """
    if vertex_normals is None:
        vertex_normals = mesh.vertex_normals()
    clip = cameras.clip(mesh.vertices)
    face_index = rasterize(clip.detach(), mesh.faces, cameras.height, cameras.width)
    visible = fragments(clip, mesh.faces, face_index)
    attributes = torch.cat([mesh.vertices, vertex_normals], dim=-1)
    points, normals = interpolate(attributes, mesh.faces, visible).split(3, dim=-1)
    normals = F.normalize(normals, dim=-1, eps=1e-8)
    albedo = scene.material.albedo(scene.geometry.features(points), shading)
    centers = cameras.centers[_camera(visible.pixel, cameras)]
    shaded = scene.material.shade(albedo, normals, scene.light, ShadingPoints(points, centers), shading)
    packed = torch.cat([shaded.rgb, albedo, torch.ones_like(albedo[:, :1])], dim=-1)
    colors = antialias(scatter_image(packed, visible), clip, mesh.faces, face_index, edges)
    foreground, albedo_image, opacity = colors.split([3, 3, 1], dim=-1)
    background = scene.background.color(cameras.rays()[1])
    return Render(
        rgb=foreground + (1 - opacity) * background,
        foreground=foreground,
        opacity=opacity,
        albedo=albedo_image,
        irradiance=scatter_image(shaded.irradiance, visible),
        normal=scatter_image(normals, visible),
        depth=scatter_image(_z_depth(points, visible.pixel, cameras), visible),
        points=scatter_image(points, visible),
        background=background,
    )


def _camera(pixel: Tensor, cameras: Cameras) -> Tensor:
    return pixel // (cameras.height * cameras.width)


def _z_depth(points: Tensor, pixel: Tensor, cameras: Cameras) -> Tensor:
    camera = _camera(pixel, cameras)
    return ((points - cameras.centers[camera]) * cameras.forward[camera]).sum(-1, keepdim=True)
