"""Pieces of the page as HTML: the progress of a run, its losses, what it made."""

import html
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from liftstudio.core.logs import duration
from liftstudio.run.folder import RunFolder
from liftstudio.studio.app import scenes
from liftstudio.studio.app.cut_outs import CutOut
from liftstudio.studio.app.history import Seen
from liftstudio.studio.app.methods import is_option
from liftstudio.studio.app.run_files import REPORT, address, find_file
from liftstudio.studio.queue import Progress
from liftstudio.studio.report.charts import HEIGHT, WIDTH, chart
from liftstudio.studio.report.media import data_uri
from liftstudio.studio.results import Result

COLORS = ("#4f46e5", "#0d9488", "#d97706", "#db2777", "#64748b")
LINES = 6  # of the newest messages
PASSES = {"rgb": "shaded", "albedo": "albedo", "normal": "normals"}
LONGEST = 600  # characters of an error that are shown
IN_ORBIT = 160  # pixels along each side of the object in the drawing of the cameras


def _png(image: Image.Image) -> str:
    """Return an image as the address of itself."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


def cut_out_box(cut: CutOut) -> str:
    """Return the cut-out object, its elevation and what may be wrong with it."""
    elevation_deg, error_deg = cut.elevation
    said = f"seen from {elevation_deg:g}° above its horizon, ±{error_deg:.0f}°; move the slider if that is wrong"
    notes = "".join(map(warning, cut.warnings))
    image = f'<img alt="the object, cut out" src="{_png(cut.framed)}">'
    return f'<figure class="ls-cut">{image}</figure><p>{said}</p>{notes}'


def object_in_orbit(cut: CutOut) -> str:
    """Return the address of the cut-out object for `draw_orbit`."""
    return _png(cut.framed.resize((IN_ORBIT, IN_ORBIT)))


def note(text: str) -> str:
    """Return a remark."""
    return f'<p class="ls-about">{html.escape(text)}</p>'


def about(parts: Sequence[str]) -> str:
    """Return what a method does, in a sentence, and the rest behind a click; see `Method.about`."""
    if not parts:
        return ""
    first, _, rest = parts[0].partition(". ")
    texts = [
        f"<pre>{html.escape(part)}</pre>" if is_option(part) else f"<p>{html.escape(part)}</p>"
        for part in filter(None, (rest, *parts[1:]))
    ]
    if any(map(is_option, parts)):
        texts.append("<p>Such lines of key=value are given under Options.</p>")
    more = f'<details class="ls-more"><summary>more</summary>{"".join(texts)}</details>' if texts else ""
    return note(f"{first.rstrip('.')}.") + more


def warning(message: str) -> str:
    """Return a message about what may be wrong."""
    return f'<p class="ls-warn">{html.escape(message)}</p>'


def error_box(message: str) -> str:
    """Return a message about what is wrong; empty: nothing. What a visitor sent may be in it, at any length."""
    shown = message if len(message) <= LONGEST else f"{message[:LONGEST]} ..."
    return f'<p class="ls-error" role="alert">{html.escape(shown)}</p>' if message else ""


def status(seen: Seen | None, progress: Progress, ahead: int) -> str:
    """Return how far a run is, its newest render, losses and messages."""
    if seen is None:
        return '<p class="ls-empty">Drop a picture, then ask for a preview, views or the whole mesh.</p>'
    event = progress.event
    lines, body = list[str](), ""
    if seen.state == "waiting":
        lines.append(f"waiting for {ahead} other {'run' if ahead == 1 else 'runs'}" if ahead else "about to begin")
    elif seen.state == "running":
        lines.append(_where(progress))
        body = f'<div class="ls-bar"><i style="width:{100 * event.fraction:.1f}%"></i></div>'
    elif seen.state == "in work":
        lines.append("another process works on it, for example a command line")
    elif seen.state == "stopped":
        lines.append("stopped; Resume goes on from its checkpoint" if seen.folder else "stopped before it began")
    image = '<div class="ls-live"></div>' if progress.image is None else _live(progress.image)
    plot = losses_plot(progress.losses)
    live = f'<div class="ls-row">{image}{plot}</div>' if progress.image is not None or plot else ""
    error = error_box(seen.error)
    said = "\n".join(progress.said[-LINES:])
    messages = f"<details><summary>Messages</summary><pre>{html.escape(said)}</pre></details>" if said else ""
    style = f"ls-{seen.state.replace(' ', '-')}"
    head = f'<div class="ls-head"><b>{html.escape(_name(seen))}</b><span class="{style}">{seen.state}</span></div>'
    return head + body + "".join(f"<p>{html.escape(line)}</p>" for line in lines) + error + live + messages


def losses_plot(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Return an SVG with a line for each loss of the newest stage, scaled to its own range; empty without losses."""
    if not losses:
        return ""
    stage = list(losses)[-1].partition("/")[0]
    lines, names = list[str](), list[str]()
    for (name, values), color in zip(_of_stage(losses, stage), COLORS, strict=False):
        line = chart(name, values)
        lines.append(f'<polyline points="{line.points}" stroke="{color}"/>')
        names.append(f'<span style="color:{color}">{html.escape(line.title)} {line.last:.3g}</span>')
    return (
        f'<div class="ls-plot"><svg viewBox="0 -3 {WIDTH} {HEIGHT + 6}" preserveAspectRatio="none" role="img" '
        f'aria-label="losses of stage {html.escape(stage)}">{"".join(lines)}</svg><p>{" ".join(names)}</p></div>'
    )


def _of_stage(
    losses: Mapping[str, Sequence[tuple[int, float]]], stage: str
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """Yield name and finite values of each loss of a stage that has some."""
    for key, values in losses.items():
        own, _, name = key.partition("/")
        if own == stage and (finite := [each for each in values if math.isfinite(each[1])]):
            yield name, finite


def result(runs_dir: Path, folder: RunFolder | None) -> str:
    """Return what a run made, as far as it is there: report, turntable, stills, views, files to download."""
    if folder is None:
        return ""

    def there(*names: str) -> list[Path]:
        return [path for name in names if (path := folder.path / name) and _served(runs_dir, path)]

    parts = [_link_to_report(runs_dir, path) for path in there(REPORT)]
    videos = there("test/turntable.mp4") or there("preview.mp4")
    parts += [
        f'<video controls loop muted autoplay playsinline src="{address(runs_dir, path)}"></video>' for path in videos
    ]
    for name, title in PASSES.items():
        stills = [path for path in sorted(folder.test.glob(f"stills/*_{name}.png")) if _served(runs_dir, path)]
        if stills:
            parts.append(
                f'<h4>{title}</h4><div class="ls-stills">{"".join(_picture(runs_dir, path) for path in stills)}</div>'
            )
    for name, title in (("views/contact_sheet.png", "views"), ("preview.png", "preview")):
        parts += [f"<h4>{title}</h4>{_picture(runs_dir, path)}" for path in there(name)]
    files = [
        *sorted(folder.export.glob("*")),
        *there("preview.glb", "test/turntable.mp4", "views/orbit.mp4", "metrics.json"),
    ]
    files += there("config.yaml", "log.csv")
    links = [_download(runs_dir, path) for path in files if _served(runs_dir, path)]
    return "".join(parts) + f'<h4>files</h4><p class="ls-files">{"".join(links)}</p>'


def scene(runs_dir: Path, folder: RunFolder | None) -> str:
    """Return the mesh of a run in 3D; empty: there is none."""
    path = Result(folder).mesh_file if folder else None
    if path is None or path.suffix not in scenes.SUFFIXES or not _served(runs_dir, path):
        return ""
    source = address(runs_dir, path, scenes.ROUTE)
    return f'<iframe class="ls-scene" title="the mesh in 3D" sandbox="allow-scripts" src="{source}"></iframe>'


def _served(runs_dir: Path, path: Path) -> bool:
    return find_file(runs_dir, path.relative_to(runs_dir).as_posix()) is not None


def _where(progress: Progress) -> str:
    event = progress.event
    if not event.stage:
        return progress.said[-1] if progress.said else "starting"
    if not event.total:
        return f"{event.stage}: {event.text}"
    left = "" if event.eta_s is None else f" · {duration(event.eta_s)} left in this stage"
    return f"stage {event.stage} · step {event.step} of {event.total}{left}"


def _name(seen: Seen) -> str:
    if seen.folder is not None:
        return seen.key
    return (
        f"{Path(seen.entry.config).stem}, {time.strftime('%H:%M:%S', time.localtime(seen.since))}" if seen.entry else ""
    )


def _live(image: Image.Image) -> str:
    return f'<div class="ls-live"><img alt="the object now" src="{_png(image)}"></div>'


def _picture(runs_dir: Path, path: Path) -> str:
    source = address(runs_dir, path)
    return f'<a href="{source}" target="_blank"><img loading="lazy" alt="{html.escape(path.stem)}" src="{source}"></a>'


def _download(runs_dir: Path, path: Path) -> str:
    size = path.stat().st_size
    shown = f"{size / 1024**2:.1f} MB" if size >= 1024**2 else f"{max(1, size // 1024)} kB"
    name = html.escape(path.name)
    return f'<a download="{name}" href="{address(runs_dir, path)}">{name}<i>{shown}</i></a>'


def _link_to_report(runs_dir: Path, path: Path) -> str:
    return f'<p><a class="ls-report" target="_blank" href="{address(runs_dir, path)}">Open the report</a></p>'
