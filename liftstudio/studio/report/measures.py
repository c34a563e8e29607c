"""The measures of runs: what each means, which direction is better, and their values in a run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from liftstudio.studio.report.record import Record, mapping, number

Better = Literal["higher", "lower", ""]


class HasGroup(Protocol):
    """A row of a table that belongs to a group of measures."""

    @property
    def group(self) -> str:
        """A key of GROUPS."""


Grouped = TypeVar("Grouped", bound=HasGroup)


@dataclass(frozen=True)
class Measure:
    """A measure. `unit` follows the value; `digits` of the value are significant."""

    title: str
    better: Better = ""
    meaning: str = ""
    unit: str = ""
    digits: int = 3

    def text(self, value: float | None) -> str:
        """Return a value for people; a dash if it is undefined."""
        return "-" if value is None else f"{_rounded(value, self.digits)}{self.unit and f' {self.unit}'}"


@dataclass(frozen=True)
class Value:
    """A measured value and where it comes from: `group` is a key of GROUPS."""

    group: str
    measure: Measure
    value: float | None

    @property
    def text(self) -> str:
        """The value for people."""
        return self.measure.text(self.value)


# Places in metrics.json -> title, and what is compared.
GROUPS = {
    "test.training": (
        "Views the run was fitted to",
        "Renders of the result against its own reference views. It says how well they were fitted; where a prior made "
        "the views, it does not say how true they are.",
    ),
    "test.held_out": ("Held-out views", "Renders of the result against views that were not used in the optimisation."),
    "novel_views": ("True views", "Renders of the result against true views of the object, except the input."),
    "mesh": ("True mesh", "The exported mesh against the true one, whose longest side is the unit of length."),
    "export": ("Mesh", "Of the exported mesh."),
    "run": ("Effort", "On the machine that the run was made on."),
}
_FEATURES = "Comparable only between runs with the same features."
MEASURES = {
    "psnr": Measure("PSNR", "higher", "Peak signal-to-noise ratio of pixels; 1 dB less is 12 % more error.", "dB"),
    "ssim": Measure("SSIM", "higher", "Structural similarity of small windows; 1 is identical."),
    "lpips": Measure("LPIPS", "lower", "Distance as a network perceives it; 0 is identical."),
    "silhouette_iou": Measure("Silhouette IoU", "higher", "Overlap of the outlines; 1 is identical."),
    "clip_to_view": Measure("CLIP, to the true view", "higher", "Similarity of what is shown; 1 is identical."),
    "clip_to_picture": Measure("CLIP, to the input", "higher", "Similarity of what is shown to the input; at most 1."),
    "contextual_to_view": Measure("Contextual distance, to the true view", "lower", f"Of local detail. {_FEATURES}"),
    "contextual_to_picture": Measure("Contextual distance, to the input", "lower", f"Of local detail. {_FEATURES}"),
    "cd_score": Measure("CD score", "higher", "HarmonyView: consistency with the text, relative to its variation."),
    "cd_distance": Measure("CD distance", "", "The numerator of the CD score."),
    "cd_variance": Measure("CD variance", "", "The denominator of the CD score."),
    "e_flow": Measure("E_flow", "lower", "Error of the optical flow between neighbouring views.", "pixels"),
    "chamfer": Measure("Chamfer distance", "lower", "Mean distance between visible points of the surfaces."),
    "iou": Measure("Volume IoU", "higher", "Overlap of the enclosed volumes; 1 is identical."),
    "f_score_0.01": Measure("F-score at 0.01", "higher", "Share of the surfaces within 0.01 of one another."),
    "f_score_0.02": Measure("F-score at 0.02", "higher", "Share of the surfaces within 0.02 of one another."),
    "normal_consistency": Measure("Normal consistency", "higher", "Agreement of the surfaces' directions; at most 1."),
    "faces": Measure("Faces", digits=9),
    "components": Measure("Components", "", "Separate pieces; 1 for one object.", digits=9),
    "seconds": Measure("Time of the stages", "lower", unit="s", digits=4),
    "memory_gb": Measure("Peak memory", "lower", unit="GB"),
    "gpu_memory_gb": Measure("Peak GPU memory", "lower", unit="GB"),
}
_SOME = {"export": ("faces", "components"), "run": ("seconds", "memory_gb", "gpu_memory_gb")}


def grouped(rows: Iterable[Grouped], groups: Iterable[str] = GROUPS) -> list[tuple[str, str, list[Grouped]]]:
    """Return title, meaning and rows of those groups that have rows."""
    every = list(rows)
    found = {group: [row for row in every if row.group == group] for group in groups}
    return [(*GROUPS[group], listed) for group, listed in found.items() if listed]


def values_of(record: Record) -> dict[str, Value]:
    """Return all measured values of a run by their keys, "test.training.psnr", in the order of GROUPS."""
    return {f"{group}.{name}": value for group in GROUPS for name, value in _values(record, group)}


def seconds_of(record: Record) -> float | None:
    """Return the seconds that the optimisation stages took together; None: unknown."""
    times = [number(mapping(stage).get("seconds")) for stage in mapping(record.measured, "stages").values()]
    return sum(time or 0.0 for time in times) or None


def _values(record: Record, group: str) -> Iterator[tuple[str, Value]]:
    data: dict[str, Any] = mapping(record.metrics, *group.split("."))
    if group == "run":
        data = {"seconds": seconds_of(record), **data}
    for name in _SOME.get(group, tuple(data)):
        value = number(data.get(name))
        if value is not None or (data.get(name, "") is None and group not in _SOME):
            yield name, Value(group, MEASURES.get(name, Measure(name.replace("_", " "))), value)


def _rounded(value: float, digits: int) -> str:
    if isinstance(value, int) or (value == int(value) and digits > 4):
        return f"{int(value):,}".replace(",", "\u202f")
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text
