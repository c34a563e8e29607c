"""Several runs side by side in one HTML file: pictures, figures with their differences, and options."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.logs import log
from liftstudio.run.folder import RunFolder
from liftstudio.studio.report import media, scene
from liftstudio.studio.report.measures import Measure, Value, grouped, values_of
from liftstudio.studio.report.options import differences, flat, without_seeds
from liftstudio.studio.report.page import Scene, render, scene_of
from liftstudio.studio.report.record import Record, read_record

MOST_SCENES = 8  # browsers draw no more than about 16 at once
BYTES = 4_000_000  # upper limit for the embedded meshes of all runs together, and for their videos
PICTURE_PIXELS = 360
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """A figure in a table. `change`: to the first column; `verdict`: "better", "worse" or "" if that is not known."""

    text: str
    change: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Row:
    """A measure of a group with a cell for each column."""

    group: str
    measure: Measure
    cells: list[Cell]


@dataclass(frozen=True)
class Column:
    """What is shown of a run."""

    title: str
    report: str
    inputs: list[media.Picture]
    views: media.Picture | None
    scene: Scene | None
    turntable: media.Video | None
    stills: list[media.Picture]
    notes: list[str]


def write_comparison(folders: Sequence[RunFolder], out: Path) -> Path:
    """Write the comparison of at least two runs and return its path; the first run is what others are compared with.

    Raises:
        InputError: fewer than two runs, a run that is given twice, or a file name that does not end in .html.
        OSError: the file cannot be written.
    """
    _check(folders, out)
    records = [read_record(folder) for folder in folders]
    groups = repeats(records)
    contents = {
        "columns": [_column(record, out, len(records)) for record in records],
        "tables": _tables([values_of(record) for record in records]),
        "groups": [", ".join(records[index].title for index in group) for group in groups],
        "means": _mean_tables([[values_of(records[index]) for index in group] for group in groups]),
        "options": differences([flat(record.config) for record in records]),
        "percent": round(100 * CONFIDENCE),
    }
    atomic_write(out, render("comparison.html", contents))
    return out


def repeats(records: Sequence[Record]) -> list[list[int]]:
    """Return the indices of runs that differ in nothing but their seeds, in groups of at least two.

    Of runs with the same seeds, too, which are no independent repeats, only the first counts.
    """
    groups = dict[frozenset[tuple[str, str]], dict[frozenset[tuple[str, str]], int]]()
    for index, record in enumerate(records):
        options = flat(record.config)
        if options:
            group = groups.setdefault(frozenset(without_seeds(options).items()), {})
            group.setdefault(frozenset(options.items()), index)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at least two values and half the width of its confidence interval, by the t distribution."""
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread


def difference_interval(values: Sequence[float], first: Sequence[float]) -> tuple[float, float]:
    """Return the difference of two means and half the width of its confidence interval (Welch's t test)."""
    difference = statistics.mean(values) - statistics.mean(first)  # exact, so that equal values differ by 0
    if np.ptp(values) == np.ptp(first) == 0:
        return difference, 0.0
    found = stats.ttest_ind(values, first, equal_var=False).confidence_interval(CONFIDENCE)
    return difference, float(found.high - found.low) / 2


def _check(folders: Sequence[RunFolder], out: Path) -> None:
    if len(folders) < 2:
        raise InputError("compare: expected at least two runs")
    places = [folder.path.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{folder.path}: given twice")
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise InputError(f"--out {out}: expected the name of an HTML file, such as compare.html")


def _column(record: Record, out: Path, count: int) -> Column:
    report = record.folder.report
    column = Column(
        record.title,
        media.relative_link(report, out.parent) if report.is_file() else "",
        media.input_pictures(record, PICTURE_PIXELS),
        media.file_picture(record, "views/contact_sheet.png", PICTURE_PIXELS),
        scene_of(record, min(scene.GLB_BYTES, BYTES // count)) if count <= MOST_SCENES else None,
        media.file_video(record, "test/turntable.mp4", min(media.VIDEO_BYTES, BYTES // count)),
        media.stills(record, "rgb"),
        record.notes,
    )
    for note in record.notes:
        log.warning("%s: %s", record.title, note)
    return column


def _tables(runs: Sequence[dict[str, Value]]) -> list[tuple[str, str, list[Row]]]:
    """Return title, meaning and rows of each group of measures that a run has."""
    return grouped([Row(each.group, each.measure, _cells(each.measure, key, runs)) for key, each in _all(runs).items()])


def _cells(measure: Measure, key: str, runs: Sequence[dict[str, Value]]) -> list[Cell]:
    values = [run[key].value if key in run else None for run in runs]
    first, cells = values[0], [Cell(measure.text(values[0]))]
    for value in values[1:]:
        if value is None or first is None:
            cells.append(Cell(measure.text(value)))
        else:
            cells.append(Cell(measure.text(value), _signed(measure, value - first), _verdict(measure, value - first)))
    return cells


def _mean_tables(groups: Sequence[Sequence[dict[str, Value]]]) -> list[tuple[str, str, list[Row]]]:
    """Return the same for groups of repeats: means with confidence intervals, and differences to the first group."""
    rows = []
    for key, each in _all([run for group in groups for run in group]).items():
        samples = [[run[key].value for run in group if key in run] for group in groups]
        known = [[value for value in group if value is not None] for group in samples]
        if any(len(group) > 1 for group in known):
            cells = [_mean_cell(each.measure, group, known[0], index) for index, group in enumerate(known)]
            rows.append(Row(each.group, each.measure, cells))
    return grouped(rows)


def _mean_cell(measure: Measure, values: Sequence[float], first: Sequence[float], index: int) -> Cell:
    if len(values) < 2:
        return Cell("-")
    mean, half = interval(values)
    text = f"{measure.text(mean)} ± {half:.2g}"
    if index == 0 or len(first) < 2:
        return Cell(text)
    change, half = difference_interval(values, first)
    verdict = _verdict(measure, change) if abs(change) > half else ""
    return Cell(text, f"{_signed(measure, change)} ± {half:.2g}", verdict)


def _all(runs: Sequence[dict[str, Value]]) -> dict[str, Value]:
    """Return key -> a value of each measure that any run has."""
    return {key: value for run in runs for key, value in run.items()}


def _signed(measure: Measure, change: float) -> str:
    return f"{'+' if change > 0 else '-' if change < 0 else '±'}{measure.text(abs(change))}"


def _verdict(measure: Measure, change: float) -> str:
    if not measure.better or change == 0:
        return ""
    return "better" if (change > 0) == (measure.better == "higher") else "worse"
