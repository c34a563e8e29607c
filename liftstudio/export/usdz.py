"""Writer of USDZ, through usd-core (the `usd` extra)."""

import io
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from liftstudio.core.files import atomic_write
from liftstudio.data.color_spaces import linear_from_srgb
from liftstudio.export.asset import METALLIC, MOMENT, ROUGHNESS, Asset, Bytes, Skin, encoded, widely_read
from liftstudio.export.options import TextureFormat
from liftstudio.export.placement import Placement
from liftstudio.export.polygons import face_corners

MAP_SCALE, MAP_BIAS = (2.0, 2.0, 2.0, 1.0), (-1.0, -1.0, -1.0, 0.0)  # from a normal map's values to a normal
ALIGNMENT = 64
LOCAL_HEADER = 30  # bytes before the name of a zip entry
EXTRA, PADDING = struct.Struct("<HH"), 0x1986  # head of a zip entry's extra field: id, here that of usd-core, and size


def write_usdz(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> list[Path]:
    """Write a USDZ package in metres: one mesh, not cut along seams, with a UsdPreviewSurface material."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = folder / f"{asset.name}.usdc"
        _write_stage(stage, asset, placement, widely_read(texture_format))
        textures = sorted(file for file in folder.iterdir() if file != stage)
        atomic_write(path, _package([stage, *textures]))
    return [path]


def _package(files: list[Path]) -> bytes:
    """Return a zip archive as the USDZ specification demands: stored, data at multiples of 64 bytes, stage first.

    usd-core's own writer puts the time into the archive.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as package:
        for file in files:
            entry = zipfile.ZipInfo(file.name, MOMENT)
            gap = -(archive.tell() + LOCAL_HEADER + len(file.name) + EXTRA.size) % ALIGNMENT
            entry.extra = EXTRA.pack(PADDING, gap) + bytes(gap)
            package.writestr(entry, file.read_bytes())
    return archive.getvalue()


def _write_stage(path: Path, asset: Asset, placement: Placement, texture_format: TextureFormat) -> None:
    from pxr import Usd, UsdGeom, UsdShade

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, placement.up.upper())
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{asset.name}")
    stage.SetDefaultPrim(root.GetPrim())
    mesh = _define_mesh(stage, f"/{asset.name}/surface", asset, placement)
    material = UsdShade.Material.Define(stage, f"/{asset.name}/material")
    shader = _node(stage, f"/{asset.name}/material/surface", "UsdPreviewSurface")
    _set(shader, "roughness", "Float", ROUGHNESS)
    _set(shader, "metallic", "Float", METALLIC)
    material.CreateSurfaceOutput().ConnectToSource(shader.ConnectableAPI(), "surface")
    if asset.skin is None:
        _connect_vertex_colors(stage, material, shader)
    else:
        _connect_textures(stage, material, shader, asset.skin, path.parent, texture_format)
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
    stage.GetRootLayer().Save()


def _define_mesh(stage: Any, path: str, asset: Asset, placement: Placement) -> Any:
    from pxr import Sdf, UsdGeom, Vt

    points = placement.points(asset.surface.vertices)
    keys = asset.surface.faces if asset.skin is None else asset.skin.uv_mesh.mesh.faces
    shapes = face_corners(keys.numpy(), asset.quads)
    corners = np.concatenate([shape.ravel() for shape in shapes])
    mesh = UsdGeom.Mesh.Define(stage, path)
    mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    mesh.CreatePointsAttr(_vec3f(points))
    mesh.CreateExtentAttr(_vec3f(np.stack([points.min(0), points.max(0)])))
    mesh.CreateFaceVertexCountsAttr(Vt.IntArray([shape.shape[1] for shape in shapes for _ in shape]))
    mesh.CreateFaceVertexIndicesAttr(_indices(asset.surface.faces, corners))
    mesh.CreateNormalsAttr(_vec3f(placement.directions(asset.normals)))
    mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    primvars = UsdGeom.PrimvarsAPI(mesh)
    if asset.skin is None:
        colors = primvars.CreatePrimvar("displayColor", Sdf.ValueTypeNames.Color3fArray, UsdGeom.Tokens.vertex)
        colors.Set(_vec3f(linear_from_srgb((asset.colors / 255).astype(np.float32))))  # linear by the schema
    else:
        uv = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying)
        uv.Set(Vt.Vec2fArray.FromNumpy(_contiguous(asset.skin.uv_mesh.uv)))
        uv.SetIndices(_indices(keys, corners))
    return mesh


def _connect_vertex_colors(stage: Any, material: Any, shader: Any) -> None:
    from pxr import Sdf

    reader = _node(stage, f"{material.GetPath()}/colors", "UsdPrimvarReader_float3")
    _set(reader, "varname", "String", "displayColor")
    output = reader.CreateOutput("result", Sdf.ValueTypeNames.Float3)
    shader.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(output)


def _connect_textures(
    stage: Any, material: Any, shader: Any, skin: Skin, folder: Path, texture_format: TextureFormat
) -> None:
    from pxr import Sdf

    types = Sdf.ValueTypeNames
    reader = _node(stage, f"{material.GetPath()}/st", "UsdPrimvarReader_float2")
    _set(reader, "varname", "String", "st")
    coordinates = reader.CreateOutput("result", types.Float2)

    def texture(name: str, image: Bytes, color_space: str, form: TextureFormat) -> Any:
        file = encoded(image, form)
        (folder / f"{name}{file.suffix}").write_bytes(file.data)
        node = _node(stage, f"{material.GetPath()}/{name}", "UsdUVTexture")
        _set(node, "file", "Asset", f"{name}{file.suffix}")
        _set(node, "sourceColorSpace", "Token", color_space)
        _set(node, "wrapS", "Token", "clamp")
        _set(node, "wrapT", "Token", "clamp")
        node.CreateInput("st", types.Float2).ConnectToSource(coordinates)
        return node

    color = texture("color", skin.color, "sRGB", texture_format).CreateOutput("rgb", types.Float3)
    shader.CreateInput("diffuseColor", types.Color3f).ConnectToSource(color)
    if skin.normal_map is not None:
        node = texture("normal", skin.normal_map, "raw", "png")
        _set(node, "scale", "Float4", MAP_SCALE)
        _set(node, "bias", "Float4", MAP_BIAS)
        shader.CreateInput("normal", types.Normal3f).ConnectToSource(node.CreateOutput("rgb", types.Float3))
    if skin.occlusion is not None:
        red = texture("occlusion", skin.occlusion, "raw", "png").CreateOutput("r", types.Float)
        shader.CreateInput("occlusion", types.Float).ConnectToSource(red)


def _node(stage: Any, path: str, kind: str) -> Any:
    from pxr import UsdShade

    node = UsdShade.Shader.Define(stage, path)
    node.CreateIdAttr(kind)
    return node


def _set(node: Any, name: str, type_name: str, value: Any) -> None:
    from pxr import Sdf

    node.CreateInput(name, getattr(Sdf.ValueTypeNames, type_name)).Set(value)


def _vec3f(rows: np.ndarray) -> Any:
    from pxr import Vt

    return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(rows, np.float32))


def _indices(faces: Tensor, corners: np.ndarray) -> Any:
    from pxr import Vt

    return Vt.IntArray.FromNumpy(faces.numpy().ravel()[corners].astype(np.int32))


def _contiguous(uv: Tensor) -> np.ndarray:
    return np.ascontiguousarray(uv.numpy(), np.float32)
