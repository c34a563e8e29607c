"""Export of a surface with a colour field to mesh files: clean up, decimate, unwrap, bake, write, report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.data.mesh import Mesh
from liftstudio.export.bake import Field, bake_texture, colors, surface_texels
from liftstudio.export.cleanup import Dropped, decimate, drop_floaters, vertex_normals
from liftstudio.export.options import ExportConfig, check_export
from liftstudio.export.report import cleanup_report, file_report, mesh_report
from liftstudio.export.unwrap import unwrap_mesh
from liftstudio.export.writers import WRITERS, write_ply

Progress = Callable[[str, float], None]


def export_mesh(
    mesh: Mesh,
    albedo: Callable[[Tensor], Tensor],
    folder: Path,
    config: ExportConfig,
    *,
    shaded: Field | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `mesh` with its colour to `folder` in the formats of `config` (mesh.glb, .obj, .ply), then report.json.

    albedo: surface points [N, 3] -> colour [N, 3] in [0, 1], without light.
    shaded: (points [N, 3], unit outward normals [N, 3]) -> colour with light; required if `config.shaded`. Both
        functions are called with tensors on the mesh's device.
    progress: called with the name of the current step and its completed fraction in [0, 1].

    Returns the report: faces, vertices, watertight, components, bounding_box, charts, texture_size, gutter,
    faces_before_decimation, dropped {components, faces, area_fraction}, files {name: bytes}, up_axis {format: axis}.

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
    surface, dropped = _cleaned(raw, config, tell)
    report = mesh_report(surface) | cleanup_report(raw, dropped)
    files = _write_textured(surface, fields, folder, config, report, tell)
    if "ply" in config.formats:
        normals = vertex_normals(surface)
        for stem, color in fields.items():
            files += write_ply(folder / f"{stem}.ply", surface, colors(color, surface.vertices, normals))
    report |= file_report(files, config.formats)
    atomic_write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    tell("write", 1.0)
    return report


def _fields(
    albedo: Callable[[Tensor], Tensor], shaded: Field | None, config: ExportConfig, device: torch.device
) -> dict[str, Field]:
    """The colour fields to bake, keyed by the stem of their files; points and normals are moved to `device`."""
    fields: dict[str, Field] = {"mesh": lambda points, normals: albedo(points.to(device))}
    if config.shaded:
        if shaded is None:
            raise InputError("export.shaded: there is no light to bake into the colour; set it to false")
        fields["mesh_shaded"] = lambda points, normals: shaded(points.to(device), normals.to(device))
    return fields


def _cleaned(raw: Mesh, config: ExportConfig, tell: Progress) -> tuple[Mesh, Dropped]:
    tell("clean up", 0.0)
    mesh, dropped = drop_floaters(raw, config.min_component_area)
    mesh = decimate(mesh, config.target_faces)
    # Repair may split off small pieces. Half the limit, so that no component kept above is lost to rounding.
    mesh, _ = drop_floaters(mesh, 0.5 * config.min_component_area)
    tell("clean up", 1.0)
    return mesh, dropped


def _write_textured(
    surface: Mesh, fields: dict[str, Field], folder: Path, config: ExportConfig, report: dict[str, Any], tell: Progress
) -> list[Path]:
    """Write the textured formats for every field; adds charts, texture size and gutter to the report."""
    writers = [WRITERS[name] for name in config.formats if name in WRITERS]
    if not writers:
        return []
    uv_mesh = unwrap_mesh(surface, config.texture_size, config.gutter, lambda fraction: tell("unwrap", fraction))
    normals = vertex_normals(surface)[uv_mesh.source]
    texels = surface_texels(uv_mesh, normals, config.texture_size)
    report |= {"charts": uv_mesh.charts, "texture_size": config.texture_size, "gutter": uv_mesh.gutter}
    files = []
    for done, (stem, color) in enumerate(fields.items()):
        tell("bake", done / len(fields))
        texture = bake_texture(color, texels)
        files += [path for write in writers for path in write(folder / stem, uv_mesh, normals, texture)]
    tell("bake", 1.0)
    return files


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
