"""Mesh file writers based on trimesh; each file is written atomically, with the same bytes for the same input.

Axes: OBJ and PLY keep world space (z up). glTF is y-up by specification, so GLB vertices are the world's (x, z, -y), a
rotation that Blender undoes on import. The object's front, world +x, stays +x.
"""

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.exchange import gltf, obj, ply
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from liftstudio.core.files import atomic_write
from liftstudio.data.color_spaces import linear_from_srgb
from liftstudio.data.mesh import Mesh
from liftstudio.export.bake import Bytes
from liftstudio.export.unwrap import UvMesh

UP_AXES = {"glb": "y", "obj": "z", "ply": "z"}


def write_glb(stem: Path, uv_mesh: UvMesh, normals: Tensor, texture: Bytes) -> list[Path]:
    """Write binary glTF 2.0 with embedded texture, a rough dielectric material and smooth normals; return the files."""
    material = PBRMaterial(
        name=stem.name, baseColorTexture=Image.fromarray(texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    mesh = trimesh.Trimesh(
        _y_up(uv_mesh.mesh.vertices),
        uv_mesh.mesh.faces.numpy(),
        vertex_normals=_y_up(normals),
        visual=TextureVisuals(uv_mesh.uv.numpy(), material=material),
        process=False,
    )
    scene = trimesh.Scene({stem.name: mesh})
    path = stem.with_name(f"{stem.name}.glb")
    atomic_write(path, gltf.export_glb(scene, include_normals=True))
    return [path]


def write_obj(stem: Path, uv_mesh: UvMesh, normals: Tensor, texture: Bytes) -> list[Path]:
    """Write Wavefront OBJ, MTL and PNG under the same stem; return the files."""
    white, black = (255, 255, 255, 255), (0, 0, 0, 255)
    material = SimpleMaterial(Image.fromarray(texture), diffuse=white, ambient=white, specular=black, name=stem.name)
    mesh = trimesh.Trimesh(
        uv_mesh.mesh.vertices.numpy(),
        uv_mesh.mesh.faces.numpy(),
        vertex_normals=normals.numpy(),
        visual=TextureVisuals(uv_mesh.uv.numpy(), material=material),
        process=False,
    )
    text, companions = obj.export_obj(
        mesh, include_normals=True, return_texture=True, write_texture=False, mtl_name=f"{stem.name}.mtl", header=None
    )
    files = companions | {f"{stem.name}.obj": text}
    for name, data in files.items():
        atomic_write(stem.with_name(name), data)
    return [stem.with_name(name) for name in files]


def write_ply(path: Path, mesh: Mesh, colors: Bytes) -> list[Path]:
    """Write binary PLY with 8-bit vertex colours; return the files."""
    surface = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    surface.visual = ColorVisuals(surface, vertex_colors=colors)
    atomic_write(path, ply.export_ply(surface, vertex_normal=False))
    return [path]


def write_colored_glb(path: Path, mesh: Mesh, colors: Tensor) -> None:
    """Write binary glTF 2.0 with smooth normals and sRGB vertex colours [V, 3] in [0, 1], without a texture."""
    linear = linear_from_srgb(colors.clamp(0, 1).numpy())  # as glTF demands
    surface = trimesh.Trimesh(
        _y_up(mesh.vertices), mesh.faces.numpy(), vertex_normals=_y_up(mesh.vertex_normals()), process=False
    )
    surface.visual = ColorVisuals(surface, vertex_colors=(linear * 255).round().astype(np.uint8))
    atomic_write(path, gltf.export_glb(trimesh.Scene({path.stem: surface}), include_normals=True))


# Formats with a texture.
WRITERS = {"glb": write_glb, "obj": write_obj}


def _y_up(vectors: Tensor) -> np.ndarray:
    x, y, z = vectors.numpy().T
    return np.stack([x, z, -y], axis=1)
