"""The mesh of a run as an interactive 3D scene, by the viewer that comes with trimesh (three.js, no network needed)."""

import base64
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree
from trimesh.exchange import gltf
from trimesh.scene.cameras import Camera
from trimesh.viewer.notebook import scene_to_html
from trimesh.visual import ColorVisuals, TextureVisuals

from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.color_spaces import linear_from_srgb
from liftstudio.studio.results import TO_Y_UP, load_y_up

GLB_BYTES = 3_500_000  # upper limit for an embedded mesh
FACE_BYTES = 40  # of geometry per face, about
MOST_TEXELS, LEAST_TEXELS = 2048, 256  # along a side of the embedded texture
AZIMUTH_DEG, ELEVATION_DEG, FOV_DEG = 30.0, 20.0, 35.0  # of the camera at first
MARK = b"the mesh of the scene"  # stands for the mesh in the viewer


def embedded_mesh(path: Path, metrics: Mapping[str, Any], limit: int = GLB_BYTES) -> tuple[bytes, str]:
    """Return a mesh file as a GLB of at most about `limit` bytes with a camera, and what was simplified, in words.

    metrics: of its run.

    Raises:
        ValueError, OSError: the file contains no mesh, or cannot be read.
    """
    mesh = load_y_up(path, metrics)
    if not len(mesh.faces):
        raise ValueError("no faces")
    _make_colors_linear(mesh)
    faces, texels, note = len(mesh.faces), 0, []
    if faces * FACE_BYTES > limit:
        mesh = _decimated(mesh, limit // FACE_BYTES)
        note.append(f"{len(mesh.faces)} of {faces} faces, with colours in place of the texture")
    texture = _texture(mesh)
    if texture is not None:
        texels = min(max(texture.size), MOST_TEXELS)
    while True:
        if texture is not None:
            mesh.visual.material.baseColorTexture = texture.resize(
                [max(1, round(side * texels / max(texture.size))) for side in texture.size], Image.Resampling.BOX
            )
        data = gltf.export_glb(_scene(mesh), include_normals=True, extension_webp=texture is not None)
        if len(data) <= limit or texels <= LEAST_TEXELS:
            break
        texels //= 2
    if texture is not None and texels < max(texture.size):
        note.append(f"texture reduced to {texels} texels")
    return data, "; ".join(note)


@cache
def viewer() -> str:
    """Return the HTML page of the viewer; base64 of MARK stands where that of a GLB belongs."""
    page = scene_to_html(SimpleNamespace(camera=None, export=lambda file_type: MARK))
    own = resources.files(__package__).joinpath("templates", "viewer.js").read_text()
    return page.replace("</body>", f"<script>{own}</script></body>")


def encoded(data: bytes | str) -> str:
    """Return base64 of bytes or of a text."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def _scene(mesh: trimesh.Trimesh) -> trimesh.Scene:
    """Return a scene of the mesh, y up, with a camera that sees all of it."""
    low, high = mesh.bounds
    distance = 0.55 * float(np.linalg.norm(high - low)) / np.sin(np.radians(FOV_DEG / 2))
    azimuth_deg, elevation_deg = torch.tensor([AZIMUTH_DEG]), torch.tensor([ELEVATION_DEG])
    pose = orbit_cameras(azimuth_deg, elevation_deg, distance, FOV_DEG, 512, 512).c2w[0].double().numpy()
    pose = TO_Y_UP @ pose
    pose[:3, 3] += (low + high) / 2
    scene = trimesh.Scene({"mesh": mesh}, camera=Camera(resolution=(512, 512), fov=(FOV_DEG, FOV_DEG)))
    scene.camera_transform = pose
    return scene


def _texture(mesh: trimesh.Trimesh) -> Image.Image | None:
    """Return the texture of a mesh, which then has a material whose texture can be replaced."""
    if not isinstance(mesh.visual, TextureVisuals):
        return None
    if not hasattr(mesh.visual.material, "baseColorTexture"):
        mesh.visual.material = mesh.visual.material.to_pbr()
    return mesh.visual.material.baseColorTexture


def _decimated(mesh: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    """Return the mesh with fewer faces and the colours of its nearest vertices, as glTF stores them."""
    colors = (
        mesh.visual.to_color().vertex_colors if isinstance(mesh.visual, TextureVisuals) else mesh.visual.vertex_colors
    )
    is_srgb = isinstance(mesh.visual, TextureVisuals)
    small = mesh.simplify_quadric_decimation(face_count=faces)
    small.visual = ColorVisuals(small, vertex_colors=colors[cKDTree(mesh.vertices).query(small.vertices)[1]])
    if is_srgb:
        _make_colors_linear(small)
    return small


def _make_colors_linear(mesh: trimesh.Trimesh) -> None:
    """Change colours of vertices from sRGB to linear light, which glTF demands; textures stay as they are."""
    if isinstance(mesh.visual, ColorVisuals) and mesh.visual.kind == "vertex":
        colors = mesh.visual.vertex_colors.copy()
        colors[:, :3] = (linear_from_srgb(colors[:, :3] / 255.0) * 255).round()
        mesh.visual.vertex_colors = colors
