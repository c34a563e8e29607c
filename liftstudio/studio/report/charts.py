"""Line charts of logged values, drawn as SVG in the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from liftstudio.studio.report.record import Rows

WIDTH, HEIGHT = 260, 90  # of the plotted area, user units
POINTS = 200  # at most on a line; each is the mean of its neighbours
LOG_FROM = 20.0  # ratio of the highest to the lowest value from which the axis is logarithmic
NOT_LOSSES = ("total_step", "step", "seconds_per_step")


@dataclass(frozen=True)
class Chart:
    """A line through the values of one loss.

    points:    of an SVG polyline in an area of WIDTH x HEIGHT.
    low, high: the values at the lower and the upper border.
    last:      the last value.
    start, end: steps at the left and the right border.
    """

    title: str
    points: str
    low: float
    high: float
    last: float
    start: int
    end: int
    is_log: bool


def loss_charts(rows: Rows) -> list[Chart]:
    """Return a chart for each loss of a stage, its sum first."""
    return [chart(name, samples) for name, samples in loss_samples(rows).items()]


def loss_samples(rows: Rows) -> dict[str, list[tuple[float, float]]]:
    """Return (step, value) of each loss of a stage by its name, its sum first."""
    names = dict.fromkeys(name for row in rows for name in row)
    losses = [name for name in names if name not in NOT_LOSSES and not name.endswith("memory_gb")]
    return {name: [(row["step"], row[name]) for row in rows if name in row] for name in losses}


def chart(title: str, samples: Sequence[tuple[float, float]]) -> Chart:
    """Return a chart of finite values at ascending steps, (step, value) each; at least one."""
    start, end, last = samples[0][0], samples[-1][0], samples[-1][1]
    size = math.ceil(len(samples) / POINTS)
    groups = [samples[index : index + size] for index in range(0, len(samples), size)]
    means = [(_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups]
    values = [y for _, y in means]
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > LOG_FROM
    scale = math.log if is_log else float
    bottom, span = scale(low), (scale(high) - scale(low)) or 1.0
    points = [
        (WIDTH * (x - start) / ((end - start) or 1.0), HEIGHT * (1 - (scale(y) - bottom) / span)) for x, y in means
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Chart(title, line, low, high, last, int(start), int(end), is_log)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
