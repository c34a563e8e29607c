"""Output of `bench.single_image`: our tables, tables in the layout of papers, and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from bench.captures import sides
from bench.prior_views import fit
from bench.published import Published
from bench.runs import Row, cells, mean_cells, with_cost
from bench.single_image_tasks import CELL, Setting
from liftstudio.data.images import grid, load_image, save_image
from liftstudio.metrics.diversity import cd_score

VIEWS = {"psnr": 2, "ssim": 3, "silhouette_iou": 3, "lpips": 3, "clip_to_view": 3, "clip_to_picture": 3}
VIEWS |= {"contextual_to_view": 3, "contextual_to_picture": 3, "cd_score": 3, "e_flow": 3, "views_s": 2}  # digits
SHAPE = {"chamfer": 4, "iou": 3, "f_score_0.01": 3, "f_score_0.02": 3, "normal_consistency": 3}
BESIDE = {"views": ("views", "repeated", "inflate", "mean"), "mesh": ("mesh", "inflate", "mean")}  # our kinds
BY_BOX = "each prediction scaled to the longest side of the true bounding box"


def tables(rows: Sequence[Row], *, by_box: bool) -> list[Table]:
    """Return tables of novel views, and of shapes and cost: a line per object, then mean with error, min and max."""
    known = scored(rows, by_box=by_box)
    shapes = [row for row in known if "chamfer" in row or row["kind"] == "mesh"]
    features = dict.fromkeys(row["contextual_by"] for row in known if "contextual_by" in row)
    by = f"; contextual distances by {' and '.join(features)}" if features else ""
    found = [_table(f"Novel views{by}", known, VIEWS)]
    if shapes:
        title = f"Shapes ({BY_BOX})" if by_box else "Shapes"
        found.append(_table(title, shapes, with_cost(SHAPE, shapes)))
    return found


def published_tables(rows: Sequence[Row], published: Sequence[Published], *, by_box: bool) -> list[Table]:
    """Return the tables of a paper: the published results, and below them ours at full size."""
    known = scored(full_size(rows), by_box=by_box)
    return [_beside(each, known, by_box=by_box) for each in published]


def full_size(rows: Sequence[Row]) -> list[Row]:
    """Return for each object and method the row with the largest views: 256 pixels, or the size of the capture."""
    largest = {(row["object"], row["method"]): row for row in sorted(rows, key=lambda row: row["pixels"])}
    return [row for row in rows if row is largest[row["object"], row["method"]]]


def scored(rows: Sequence[Row], *, by_box: bool) -> list[Row]:
    """Return the rows with the CD score of each object, and the shape metrics selected by `by_box`."""
    return [{**row, "cd_score": score_of([row]), **(row.get("by_box", {}) if by_box else {})} for row in rows]


def score_of(rows: Sequence[Row]) -> float | None:
    """Return the CD score over the rows that have its terms; None if there are none or their views do not vary."""
    terms = [(row["cd_distance"], row["cd_variance"]) for row in rows if "cd_distance" in row]
    return cd_score(*torch.tensor(terms, dtype=torch.float64).T) if terms else None


def save_sheet(path: Path, setting: Setting, captures: Sequence[Path], rows: Sequence[Row]) -> None:
    """Write a PNG: for each object the true views, the input first, above the same views of each method."""
    lines, labels = [], []
    for capture in captures:
        subject = setting.read(capture)
        lines.append([grid([list(fit(subject.views.over(1.0)[sides(subject.views)], CELL))])])
        labels.append([f"{subject.name}: input and true views"])
        for row in full_size(rows):
            if row["object"] == subject.name and "strip" in row:
                lines.append([load_image(row["strip"])[0]])
                labels.append([row["method"]])
    save_image(path, grid(lines, labels))


def _table(title: str, rows: Sequence[Row], columns: dict[str, int]) -> Table:
    columns = {name: digits for name, digits in columns.items() if any(row.get(name) is not None for row in rows)}
    table = Table("method", "pixels", "object", *columns, box=box.MARKDOWN, title=title)
    for method, pixels in dict.fromkeys((row["method"], row["pixels"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["pixels"]) == (method, pixels)]
        for row in chosen:
            table.add_row(method, str(pixels), row["object"], *cells(row, columns))
        for what, line in summary(chosen, columns).items():
            table.add_row(f"**{method}**", str(pixels), what, *line)
    return table


def summary(rows: Sequence[Row], columns: dict[str, int]) -> dict[str, list[str]]:
    """Return mean with standard error, min and max of each column; the mean CD score is a ratio of means."""
    known = {name: [row[name] for row in rows if row.get(name) is not None] for name in columns}
    ends = {
        what: cells({name: take(values) for name, values in known.items() if values}, columns)
        for what, take in (("min", min), ("max", max))
    }
    return {"mean": means(rows, columns), **ends}


def means(rows: Sequence[Row], columns: dict[str, int]) -> list[str]:
    """Return mean and standard error of each column over the objects."""
    found = dict(zip(columns, mean_cells(list(rows), columns), strict=True))
    if "cd_score" in columns:
        (found["cd_score"],) = cells({"cd_score": score_of(rows)}, {"cd_score": columns["cd_score"]})
    return list(found.values())


def _beside(published: Published, rows: Sequence[Row], *, by_box: bool) -> Table:
    names = dict(published.columns.values())
    scaled = f"; ours: {BY_BOX}" if by_box else ""
    title = f"{published.title}: {published.source}{scaled}"
    table = Table("method", "objects", *published.columns, box=box.MARKDOWN, title=title)
    for method, figures in published.rows.items():
        line = cells(dict(zip(names, figures, strict=True)), names)
        table.add_row(f"{method} (published)", "", *line)
    ours = [row for row in rows if row["kind"] in BESIDE[published.kind]]
    for method in dict.fromkeys(row["method"] for row in ours):
        chosen = [row for row in ours if row["method"] == method]
        table.add_row(f"**{method}**", str(len(chosen)), *means(chosen, names))
    if not table.row_count:
        table.add_row("nothing measured")
    return table
