"""Mesh file writers; each file is written atomically, with the same bytes for the same input.

Every writer takes the path of the file, the asset, its placement in the file and the format of the colour's texture. It
returns the files that it wrote, `path` last.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray
from torch import Tensor
from trimesh.exchange import gltf, obj, stl
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from liftstudio.core.files import atomic_write
from liftstudio.data.color_spaces import linear_from_srgb
from liftstudio.data.mesh import Mesh
from liftstudio.export.asset import METALLIC, ROUGHNESS, Asset, Bytes, Skin, encoded, widely_read
from liftstudio.export.options import Format, TextureFormat
from liftstudio.export.placement import Placement
from liftstudio.export.polygons import face_corners
from liftstudio.export.threemf import write_3mf
from liftstudio.export.usdz import write_usdz

Writer = Callable[[Path, Asset, Placement, TextureFormat], list[Path]]

HALVES = re.compile(r"^f (\S+) (\S+) (\S+)\nf \1 \3 (\S+)$", re.MULTILINE)  # of a quad in an OBJ file
GLB_ATTRIBUTES = {"_TANGENT": "TANGENT", "_COLOR_0": "COLOR_0"}  # trimesh writes names of its own only


PLY_HEADER = """ply
format binary_little_endian 1.0
element vertex {}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
property uchar alpha
element face {}
property list uchar int vertex_indices
end_header
"""


def write_glb(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write binary glTF 2.0 with embedded textures, a rough dielectric material and smooth normals.

    A normal map comes with tangents; occlusion is in the red channel. WebP needs a reader of EXT_texture_webp.
    """
    if asset.skin is None:
        mesh = _trimesh(asset.surface, asset.normals, placement)
        mesh.vertex_attributes["_COLOR_0"] = linear_from_srgb((asset.colors / 255).astype(np.float32))
    else:
        mesh = _textured(asset.skin, placement, _pbr_material(asset.name, asset.skin, texture_format))
        if asset.skin.tangents is not None:
            mesh.vertex_attributes["_TANGENT"] = _placed_tangents(asset.skin.tangents, placement)
    data = gltf.export_glb(
        trimesh.Scene({asset.name: mesh}),
        include_normals=True,
        extension_webp=asset.skin is not None and texture_format == "webp",
        tree_postprocessor=_complete_gltf,
    )
    atomic_write(path, data)
    return [path]


def write_obj(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write Wavefront OBJ, with MTL and image files of the same stem; without a skin, OBJ with vertex colours.

    The MTL states roughness (Pr) and metalness (Pm), and names the normal map (norm). Quads are kept, but for
    those that a seam of the texture cuts in half.
    """
    skin = asset.skin
    if skin is None:
        mesh = _trimesh(asset.surface, asset.normals, placement)
        mesh.visual = ColorVisuals(mesh, vertex_colors=asset.colors)
    else:
        mesh = _textured(skin, placement, _simple_material(asset.name, skin, widely_read(texture_format)))
    text, companions = obj.export_obj(
        mesh, include_normals=True, return_texture=True, write_texture=False, mtl_name=f"{path.stem}.mtl", header=None
    )
    files = dict(companions)
    if skin is not None:
        files[f"{path.stem}.mtl"] += f"\nPr {ROUGHNESS}\nPm {METALLIC}".encode()
        if skin.normal_map is not None:
            files[f"{path.stem}.mtl"] += f"\nnorm {path.stem}_normal.png".encode()
            files[f"{path.stem}_normal.png"] = encoded(skin.normal_map, "png").data
    files[path.name] = HALVES.sub(r"f \1 \2 \3 \4", text) if asset.quads else text
    for name, data in files.items():
        atomic_write(path.with_name(name), data)
    return [path.with_name(name) for name in files]


def write_ply(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write binary PLY with 8-bit vertex colours; quads are kept."""
    points, faces = placement.points(asset.surface.vertices), asset.surface.faces.numpy()
    shapes = [faces.ravel()[corners] for corners in face_corners(faces, asset.quads)]
    colors = np.pad(asset.colors, ((0, 0), (0, 1)), constant_values=255)
    atomic_write(
        path,
        PLY_HEADER.format(len(points), sum(map(len, shapes))).encode()
        + b"".join(
            [
                _rows(("<f4", points), ("u1", colors)),
                *(_rows(("u1", np.full((len(s), 1), s.shape[1])), ("<i4", s)) for s in shapes),
            ]
        ),
    )
    return [path]


def write_stl(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write binary STL: the surface alone."""
    surface = trimesh.Trimesh(placement.points(asset.surface.vertices), asset.surface.faces.numpy(), process=False)
    atomic_write(path, stl.export_stl(surface))
    return [path]


def write_colored_glb(path: Path, mesh: Mesh, colors: Tensor) -> None:
    """Write binary glTF 2.0 with smooth normals and sRGB vertex colours [V, 3] in [0, 1], without a texture."""
    linear = linear_from_srgb(colors.clamp(0, 1).numpy())  # as glTF demands
    surface = _trimesh(mesh, mesh.vertex_normals(), Placement(up="y"))
    surface.visual = ColorVisuals(surface, vertex_colors=(linear * 255).round().astype(np.uint8))
    atomic_write(path, gltf.export_glb(trimesh.Scene({path.stem: surface}), include_normals=True))


WRITERS: dict[Format, Writer] = {
    "glb": write_glb,
    "obj": write_obj,
    "ply": write_ply,
    "stl": write_stl,
    "3mf": write_3mf,
    "usdz": write_usdz,
}
TEXTURED: tuple[Format, ...] = ("glb", "obj", "3mf", "usdz")  # the formats that may contain textures


def _rows(*columns: tuple[str, NDArray[Any]]) -> bytes:
    """Return arrays [N, C], each in its type, as the bytes of N rows one after another."""
    return np.concatenate(
        [np.ascontiguousarray(values, kind).view(np.uint8).reshape(len(values), -1) for kind, values in columns], axis=1
    ).tobytes()


def _trimesh(mesh: Mesh, normals: Tensor, placement: Placement) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        placement.points(mesh.vertices),
        mesh.faces.numpy(),
        vertex_normals=placement.directions(normals),
        process=False,
    )


def _textured(skin: Skin, placement: Placement, material: Any) -> trimesh.Trimesh:
    mesh = _trimesh(skin.uv_mesh.mesh, skin.normals, placement)
    mesh.visual = TextureVisuals(skin.uv_mesh.uv.numpy(), material=material)
    return mesh


def _pbr_material(name: str, skin: Skin, texture_format: TextureFormat) -> PBRMaterial:
    maps: dict[str, Bytes | None] = {
        "normalTexture": skin.normal_map,
        "occlusionTexture": skin.occlusion if skin.occlusion is None else _red(skin.occlusion),
    }
    return PBRMaterial(
        name=name,
        baseColorTexture=encoded(skin.color, texture_format),
        metallicFactor=METALLIC,
        roughnessFactor=ROUGHNESS,
        **{key: encoded(image, texture_format, lossless=True) for key, image in maps.items() if image is not None},
    )


def _red(image: Bytes) -> Bytes:
    """Return a grey image [H, W] as RGB; all channels are alike, so that any reader finds it."""
    return np.repeat(image[..., None], 3, axis=-1)


def _simple_material(name: str, skin: Skin, texture_format: TextureFormat) -> SimpleMaterial:
    white, black = (255, 255, 255, 255), (0, 0, 0, 255)
    return SimpleMaterial(encoded(skin.color, texture_format), diffuse=white, ambient=white, specular=black, name=name)


def _placed_tangents(tangents: Tensor, placement: Placement) -> NDArray[np.float32]:
    """Return tangents [V, 4] along the axes of the file; the placement does not mirror, so their signs stay."""
    return np.concatenate([placement.directions(tangents[:, :3]), tangents[:, 3:].numpy()], axis=1)


def _complete_gltf(tree: dict[str, Any]) -> None:
    """Give attributes their standard names, and a mesh without material the one of all files."""
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            named = {GLB_ATTRIBUTES.get(key, key): index for key, index in primitive["attributes"].items()}
            primitive["attributes"] = named
            if "material" not in primitive:
                plain = {"metallicFactor": METALLIC, "roughnessFactor": ROUGHNESS}
                tree["materials"] = [{"name": mesh["name"], "pbrMetallicRoughness": plain}]
                primitive["material"] = 0
