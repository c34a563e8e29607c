"""The report of a run: report.html in its folder, one file that needs no network."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from liftstudio import __version__
from liftstudio.core.files import atomic_write
from liftstudio.core.logs import log
from liftstudio.run.folder import RunFolder
from liftstudio.studio.report import charts, media, scene
from liftstudio.studio.report.licences import licences
from liftstudio.studio.report.measures import grouped, values_of
from liftstudio.studio.report.options import differences, flat, preset_of
from liftstudio.studio.report.record import Record, mapping, number, read_record
from liftstudio.studio.results import Result

COMPARED = ("test.held_out", "test.training", "novel_views", "mesh")  # groups of measures that have a table


@dataclass(frozen=True)
class Effort:
    """What a stage took: `done` of `planned` steps, and peak memory until its end by kind, 1e9 bytes.

    is_estimate: `seconds` is extrapolated from the logged steps, since the run was ended within the stage.
    """

    stage: str
    done: int | None
    planned: int | None
    seconds: float | None
    memory: dict[str, float]
    is_estimate: bool = False


@dataclass(frozen=True)
class Scene:
    """An embedded 3D scene: base64 of a GLB, what it shows, and what was simplified, in words."""

    glb: str
    title: str
    note: str


def write_report(folder: RunFolder) -> Path:
    """Write the report of a run, finished or not, and return its path; parts that cannot be read are named in it.

    Raises:
        OSError: the folder cannot be written.
    """
    record = read_record(folder)
    atomic_write(folder.report, render("report.html", _contents(record)))
    return folder.report


def render(template: str, contents: Mapping[str, Any]) -> str:
    """Return a page; all texts in `contents` are escaped."""
    common = {"version": __version__, "viewer": scene.encoded(scene.viewer()), "mark": scene.encoded(scene.MARK)}
    return _templates().get_template(template).render(**common, **contents)


@functools.cache  # compiling them takes longer than filling them in
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def scene_of(record: Record, limit: int = scene.GLB_BYTES) -> Scene | None:
    """Return the scene of the exported mesh, or of the preview where there is none; a faulty file is noted."""
    path = Result(record.folder).mesh_file
    if path is None:
        return None
    try:
        glb, note = scene.embedded_mesh(path, record.metrics, limit)
    except Exception as error:  # the reader raises a dozen unrelated types
        record.notes.append(f"{path.name}: not shown ({type(error).__name__}: {error})")
        return None
    name = path.relative_to(record.folder.path).as_posix()
    return Scene(scene.encoded(glb), name, note)


def efforts(record: Record) -> list[Effort]:
    """Return what each stage took, as far as the run got."""
    stages = mapping(record.measured, "stages")
    rows = []
    for stage in dict.fromkeys([*stages, *record.log]):
        logged, told = record.log.get(stage, []), mapping(stages, stage)
        memory = {name: max(row.get(name, 0.0) for row in logged) for name in ("memory_gb", "gpu_memory_gb") if logged}
        done = int(logged[-1]["step"]) if logged else None
        known, estimate = number(told.get("seconds")) or None, None
        if known is None and done:
            estimate = done * sum(row.get("seconds_per_step", 0.0) for row in logged) / len(logged)
        used = {name: value for name, value in memory.items() if value}
        rows.append(Effort(stage, done, told.get("steps"), known or estimate, used, is_estimate=known is None))
    phases = {name: number(record.measured.get(f"{name}_seconds")) for name in ("test", "export")}
    return rows + [Effort(name, None, None, seconds, {}) for name, seconds in phases.items() if seconds is not None]


def _contents(record: Record) -> dict[str, Any]:
    """Return what the template shows; `notes` last, since reading all others adds to them."""
    values, preset = values_of(record), preset_of(record)
    own = flat(record.config)
    sheets = ("test/contact_sheet.png", *_last_images(record))
    contents = {
        "record": record,
        "prompt": record.config.get("prompt"),
        "inputs": media.input_pictures(record),
        "views_sheet": media.file_picture(record, "views/contact_sheet.png"),
        "views": [] if record.folder.views.is_dir() else media.views(record),
        "orbit": media.file_video(record, "views/orbit.mp4"),
        "preview": media.file_picture(record, "preview.png"),
        "preview_video": media.file_video(record, "preview.mp4"),
        "turntable": media.file_video(record, "test/turntable.mp4"),
        "stills": media.stills(record),
        "sheets": [sheet for name in sheets if (sheet := media.file_picture(record, name, caption=name))],
        "scene": scene_of(record),
        "stages": {stage: charts.loss_charts(rows) for stage, rows in record.log.items()},
        "chart_width": charts.WIDTH,
        "chart_height": charts.HEIGHT,
        "tables": grouped(values.values(), COMPARED),
        "values": values,
        "efforts": efforts(record),
        "mesh": _mesh_facts(record),
        "elevation": mapping(record.metrics, "elevation"),
        "preset": preset[0] if preset else "",
        "changes": differences([preset[1], own]) if preset else {},
        "config": yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True) if record.config else "",
        "licences": licences(record),
        "versions": {name: str(text) for name, text in mapping(record.measured, "versions").items()},
        "files": _files(record),
    }
    for note in record.notes:
        log.warning("report: %s", note)
    return contents


def _last_images(record: Record) -> list[str]:
    """Return the newest image grid of every stage."""
    folders = sorted((record.folder.path / "images").glob("*"), key=lambda folder: folder.stat().st_mtime)
    newest = [max(found) for folder in folders if (found := list(folder.glob("*.png")))]
    return [path.relative_to(record.folder.path).as_posix() for path in newest]


def _mesh_facts(record: Record) -> dict[str, str]:
    """Return the statistics of the exported mesh, in words."""
    export = mapping(record.metrics, "export")
    if not export:
        return {}
    box = mapping(export, "bounding_box")
    facts = {
        "Faces": export.get("faces"),
        "Vertices": export.get("vertices"),
        "Faces before decimation": export.get("faces_before_decimation"),
        "Watertight": _yes_or_no(export.get("watertight")),
        "Components": export.get("components"),
        "Dropped pieces": mapping(export, "dropped").get("components"),
        **_repair_facts(mapping(export, "repair")),
        **_remesh_facts(mapping(export, "remesh")),
        "Texture": f"{export['texture_size']} x {export['texture_size']} texels" if "texture_size" in export else None,
        "Charts of the texture": export.get("charts"),
        "Size, world units": _size(box),
    }
    return {
        name: f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in facts.items()
        if value is not None
    }


def _repair_facts(repair: dict[str, Any]) -> dict[str, Any]:
    added = number(repair.get("area_added")) or 0.0
    return {
        "Watertight before repair": _yes_or_no(repair.get("watertight_before")),
        "Watertight after repair": _yes_or_no(repair.get("watertight_after")),
        "Vertices merged": repair.get("vertices_merged"),
        "Faces turned over": repair.get("faces_turned"),
        "Faces removed by repair": repair.get("faces_removed"),
        "Holes filled": f"{repair['holes_filled']}, {100 * added:.1f} % of the area"
        if "holes_filled" in repair
        else None,
    }


def _remesh_facts(remesh: dict[str, Any]) -> dict[str, Any]:
    if not remesh:
        return {}
    length, distance = mapping(remesh, "edge_length"), mapping(remesh, "distance")
    target, mean, std = (number(length.get(name)) or math.nan for name in ("target", "mean", "std"))
    average, largest = (number(distance.get(name)) or math.nan for name in ("mean", "max"))
    return {
        "Remeshed to": remesh.get("kind"),
        "Share of quads": f"{100 * (number(remesh.get('quads')) or 0.0):.1f} %",
        "Edge length, world units": f"{mean:.3g} ± {std:.2g}, wanted {target:.3g}",
        "Distance to the surface before": f"{average:.2g} on average, at most {largest:.2g}",
    }


def _yes_or_no(value: Any) -> str | None:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None


def _size(box: dict[str, Any]) -> str | None:
    try:
        return " x ".join(f"{high - low:.3g}" for low, high in zip(box["min"], box["max"], strict=True))
    except (KeyError, TypeError, ValueError):
        return None


def _files(record: Record) -> list[tuple[str, str, int]]:
    """Return name, address and bytes of the files that people look for in a run folder."""
    folder = record.folder.path
    patterns = ("export/*", "preview.glb", "metrics.json", "log.csv", "config.yaml")
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [(name, quote(name), path.stat().st_size) for name, path in zip(names, paths, strict=True)]
