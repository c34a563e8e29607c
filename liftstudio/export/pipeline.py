"""Export of a surface with a colour field to mesh files: clean up, decimate or remesh, unwrap, bake, write, report."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.arguments import checked
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.logs import log
from liftstudio.data.mesh import Mesh
from liftstudio.export.asset import Asset, Skin
from liftstudio.export.bake import Field, Texels, bake_texture, colors, projected, surface_texels
from liftstudio.export.cleanup import decimate, drop_floaters, vertex_normals
from liftstudio.export.maps import bake_normal_map, bake_occlusion
from liftstudio.export.options import ExportConfig, check_export
from liftstudio.export.placement import IN_MILLIMETRES, placement_report, placements
from liftstudio.export.remesh import edge_length, remesh_report, remeshed
from liftstudio.export.repair import watertight
from liftstudio.export.report import cleanup_report, file_report, mesh_report, texture_report
from liftstudio.export.seams import mended
from liftstudio.export.tangents import vertex_tangents
from liftstudio.export.unwrap import UvMesh, unwrap_mesh
from liftstudio.export.writers import TEXTURED, WRITERS

Progress = Callable[[str, float], None]


@checked
def export_mesh(
    mesh: Mesh,
    albedo: Callable[[Tensor], Tensor],
    folder: Path,
    config: ExportConfig,
    *,
    shaded: Field | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `mesh` with its colour to `folder` in the formats of `config` (mesh.glb, ...), then report.json.

    With several levels of detail, the coarser ones are mesh_1.glb, mesh_2.glb, ...; each has a texture of its own.

    albedo: surface points [N, 3] -> colour [N, 3] in [0, 1], without light.
    shaded: (points [N, 3], unit outward normals [N, 3]) -> colour with light; required if `config.shaded`. Both
        functions are called with tensors on the mesh's device.
    progress: called with the name of the current step and its completed fraction in [0, 1].

    Returns the report: faces, vertices, watertight, components, bounding_box, charts, texture_size, gutter, seams,
    faces_before_decimation, dropped {components, faces, area_fraction}, files {name: bytes}, up_axis {format: axis};
    `levels`, the same of the coarser levels, `repair` (see `Repair`), `remesh` (see `remesh_report`), and what
    `placement_report` adds, where they apply.

    Raises:
        InputError: invalid options; a surface that is empty, has no area or is not finite; colours that are not
            finite; or charts that do not fit the texture.
        OSError: the folder cannot be written.
    """
    check_export(config)
    fields = _fields(albedo, shaded, config, mesh.vertices.device)
    raw = mesh.detach().to("cpu")
    _check_surface(raw)
    tell = progress or (lambda step, fraction: None)
    tell("clean up", 0.0)
    whole, repair = watertight(raw) if config.repair else (raw, None)
    full, dropped = drop_floaters(whole, config.min_component_area)
    lengths = [_edge_length(full, faces, config) for faces in config.levels]
    surfaces = [_surface(full, faces, length, config) for faces, length in zip(config.levels, lengths, strict=True)]
    tell("clean up", 1.0)
    placed = placements(surfaces[0], config)
    if not config.longest_side_mm and any(name in IN_MILLIMETRES for name in config.formats):
        log.warning("export: STL and 3MF are read as millimetres; give the real size as export.longest_side_mm=...")
    files, reports = [], []
    for level, surface in enumerate(surfaces):
        uv_mesh = _unwrapped(surface, config, tell)
        reports.append(mesh_report(surface))
        if config.remesh != "none":
            reports[level]["remesh"] = remesh_report(surface, full, config.remesh, lengths[level])
        for done, (kind, field) in enumerate(fields.items()):
            tell("bake", done / len(fields))
            name = f"mesh{kind}" if level == 0 else f"mesh_{level}{kind}"
            options = config if kind == "" else replace(config, normal_map=False, occlusion_map=False)
            asset = _asset(name, surface, uv_mesh, field, full, options)
            if kind == "" and asset.skin is not None:
                reports[level] |= texture_report(asset.skin)
            for form in config.formats:
                path = folder / f"{name}.{form}"
                files += WRITERS[form](path, asset, placed[form], config.texture_format)
        tell("bake", 1.0)
    report = reports[0] | cleanup_report(whole, dropped, repair)
    if len(reports) > 1:
        report["levels"] = reports[1:]
    report |= file_report(files) | placement_report(placed)
    atomic_write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    tell("write", 1.0)
    return report


def _fields(
    albedo: Callable[[Tensor], Tensor], shaded: Field | None, config: ExportConfig, device: torch.device
) -> dict[str, Field]:
    """The colour fields to bake, keyed by what they add to the name; points and normals are moved to `device`."""
    fields: dict[str, Field] = {"": lambda points, normals: albedo(points.to(device))}
    if config.shaded:
        if shaded is None:
            raise InputError("export.shaded: there is no light to bake into the colour; set it to false")
        fields["_shaded"] = lambda points, normals: shaded(points.to(device), normals.to(device))
    return fields


def _edge_length(full: Mesh, faces: int, config: ExportConfig) -> float:
    """The edge length to remesh to; 0: the surface is decimated."""
    return 0.0 if config.remesh == "none" else edge_length(full, config.remesh, config.edge_length, faces)


def _surface(full: Mesh, faces: int, length: float, config: ExportConfig) -> Mesh:
    """The full surface with about `faces` faces, or with edges of about `length`."""
    if config.remesh == "none":
        # Repair may split off small pieces. Half the limit, so that no component kept before is lost to rounding.
        result = drop_floaters(decimate(full, faces), 0.5 * config.min_component_area)[0]
    else:
        result = remeshed(full, config.remesh, length)
    if config.repair:
        result, repair = watertight(result)
        if not repair.watertight_after:
            log.warning("export.repair: the surface could not be made watertight")
    return result


def _unwrapped(surface: Mesh, config: ExportConfig, tell: Progress) -> UvMesh | None:
    """The surface cut into charts; None if no format needs them."""
    if config.color == "vertices" or not any(name in TEXTURED for name in config.formats):
        return None
    return unwrap_mesh(surface, config.texture_size, config.gutter, lambda fraction: tell("unwrap", fraction))


def _asset(name: str, surface: Mesh, uv_mesh: UvMesh | None, field: Field, full: Mesh, config: ExportConfig) -> Asset:
    """The surface with its colour and maps; with levels of detail, remeshed, or with maps, they are those of `full`."""
    is_remeshed = config.remesh != "none"
    from_full = is_remeshed or len(config.levels) > 1 or config.normal_map or config.occlusion_map
    normals = vertex_normals(surface)
    at_vertices = projected(surface.vertices, normals, full) if from_full else (surface.vertices, normals)
    vertex_colors = colors(field, *at_vertices)
    if uv_mesh is None:
        return Asset(name, surface, normals, vertex_colors, quads=config.remesh == "quads")
    texels = surface_texels(uv_mesh, normals[uv_mesh.source], config.texture_size)
    if from_full:
        points, directions = projected(texels.points, texels.normals, full)
        texels = replace(texels, points=points, normals=directions)
    skin = Skin(uv_mesh, normals[uv_mesh.source], mended(uv_mesh, bake_texture(field, texels)))
    skin = _with_maps(skin, texels, full, config)
    return Asset(name, surface, normals, vertex_colors, skin, quads=config.remesh == "quads")


def _with_maps(skin: Skin, texels: Texels, full: Mesh, config: ExportConfig) -> Skin:
    """The skin with the maps that `config` asks for; texels: with the points and normals of the surface to show."""
    if config.normal_map:
        tangents = vertex_tangents(skin.uv_mesh.mesh, skin.normals, skin.uv_mesh.uv)
        normal_map = bake_normal_map(skin.uv_mesh, skin.normals, tangents, texels)
        skin = replace(skin, normal_map=normal_map, tangents=tangents)
    if config.occlusion_map:
        skin = replace(skin, occlusion=bake_occlusion(full, texels))
    return skin


def _check_surface(mesh: Mesh) -> None:
    if len(mesh.faces) == 0:
        raise InputError("export: the surface is empty (no faces)")
    vertices = mesh.vertices[mesh.faces.unique()]
    broken = int((~vertices.isfinite().all(dim=1)).sum())
    if broken:
        raise InputError(f"export: the surface diverged, {broken} of its {len(vertices)} vertices are not finite")
    area = mesh.face_area_vectors().norm(dim=-1).sum()
    if not (area > 0 and area.isfinite()):
        raise InputError(f"export: the surface has an area of {area.item():g}: nothing to texture")
