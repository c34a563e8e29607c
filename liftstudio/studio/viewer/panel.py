"""The controls beside the scene, which all browsers share."""

import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import viser
from PIL import Image

from liftstudio.core.logs import duration
from liftstudio.run.snapshots import PICTURES
from liftstudio.studio.viewer.history import Log

CURVE = "#4f46e5"
SHOWN_EDITS = 12  # the newest


class Panel:
    """Controls of the viewer. What they ask for is done by the thread of the run, which reads it here.

    is_paused: whether the run shall wait.
    edits:     (option, text of its value) to be changed.
    """

    def __init__(self, gui: viser.GuiApi, wake: Callable[[], None], *, steerable: bool) -> None:
        """Add the controls; `wake` is called when one is used. steerable: whether the run can be paused and changed."""
        self.gui, self.wake, self.steerable = gui, wake, steerable
        self.is_paused = False
        self.edits: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.paths: list[Path] = []
        self.values: dict[str, str] = {}
        gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        gui.set_panel_label("liftstudio")
        self.status = gui.add_markdown("Waiting for the first step.")
        self.progress = gui.add_progress_bar(0.0)
        self.pause = gui.add_button("Pause", visible=steerable)
        self.pause.on_click(lambda _: self._toggle())
        tabs = gui.add_tab_group()
        with tabs.add_tab("View"):
            self._add_view()
        with tabs.add_tab("Losses"):
            self._add_losses()
        with tabs.add_tab("Snapshots"):
            self._add_snapshots()
        if steerable:
            with tabs.add_tab("Edit"):
                self._add_editing()

    def _add_view(self) -> None:
        self.picture = self.gui.add_dropdown("Picture", PICTURES)
        self.picture.on_update(lambda _: self.wake())
        self.training = self.gui.add_checkbox("Training cameras", True)
        self.asked = self.gui.add_checkbox("Cameras of this step", False, visible=self.steerable)

    def _add_losses(self) -> None:
        self.log = Log([])
        self.loss = self.gui.add_dropdown("Loss", ("loss",))
        self.loss.on_update(lambda _: self._draw_curve())
        nothing = np.zeros(1), np.full(1, np.nan)
        self.curve = self.gui.add_uplot(
            nothing,
            ({"label": "step"}, {"stroke": CURVE}),
            scales={"x": {"time": False}},
            aspect=1.5,
            padding=(16, 16, 0, 0),
            visible=False,
        )

    def _add_snapshots(self) -> None:
        self.caption = self.gui.add_markdown("There is none yet; the option `log.images_every` says how often.")
        self.snapshot = self.gui.add_slider("Snapshot", min=0, max=1, step=1, initial_value=0, visible=False)
        self.snapshot.on_update(lambda _: self._draw_snapshot())
        self.grid = self.gui.add_image(np.full((1, 1, 3), 255, np.uint8), visible=False)

    def _add_editing(self) -> None:
        self.gui.add_markdown("Pause the run, then change a weight or a learning rate from the next step on.")
        self.option = self.gui.add_dropdown("Option", ("",), disabled=True)
        self.option.on_update(lambda _: self._show_value())
        hint = "a number, [start_step, v0, v1, end_step] or [[step, value], ...]"
        self.value = self.gui.add_text("Value", "", disabled=True, hint=hint)
        self.apply = self.gui.add_button("Apply", disabled=True)
        self.apply.on_click(lambda _: self._ask())
        self.answer = self.gui.add_markdown("")
        self.made = self.gui.add_markdown("")

    def say(self, text: str, fraction: float) -> None:
        """Show what goes on now, and how much of it is done, 0 to 1."""
        self.status.content = text
        _set(self.progress, 100 * fraction)

    def show_log(self, log: Log) -> None:
        """Show the losses."""
        self.log = log
        names = log.losses()
        if names and self.loss.options != names:
            self.loss.options = names
        self._draw_curve()

    def show_snapshots(self, paths: list[Path]) -> None:
        """Let the slider choose among image grids; at its end it stays with the newest."""
        if paths == self.paths:
            return
        follows = not self.paths or self.snapshot.value >= len(self.paths) - 1
        self.paths = paths
        self.snapshot.max = max(1, len(paths) - 1)
        self.snapshot.visible = len(paths) > 1
        if follows:
            _set(self.snapshot, len(paths) - 1)
        self._draw_snapshot()

    def show_schedules(self, schedules: Mapping[str, Any], made: Sequence[Any]) -> None:
        """Show the options that can be changed, as they are, and the changes that were made."""
        self.values = {name: str(schedule) for name, schedule in schedules.items()}
        names = tuple(self.values) or ("nothing can be changed in this stage",)
        if self.option.options != names:
            self.option.options = names
        self._show_value()
        self.made.content = "  \n".join(f"`{edit}`" for edit in made[-SHOWN_EDITS:])
        self._allow_editing()

    def let_go_on(self) -> None:
        """Let the run go on."""
        self.is_paused = False
        self.pause.label = "Pause"
        self._allow_editing()

    def _toggle(self) -> None:
        if self.is_paused:
            self.let_go_on()
        else:
            self.is_paused, self.pause.label = True, "Resume"
        self.wake()

    def _allow_editing(self) -> None:
        for control in (self.option, self.value, self.apply):
            control.disabled = not (self.is_paused and self.values)

    def _show_value(self) -> None:
        _set(self.value, self.values.get(self.option.value, ""))

    def _ask(self) -> None:
        if self.is_paused:
            self.edits.put((self.option.value, self.value.value))
            self.wake()

    def _draw_curve(self) -> None:
        steps, values = self.log.curve(self.loss.value)
        if len(steps):
            self.curve.series = ({"label": "step"}, {"label": self.loss.value, "stroke": CURVE, "width": 2})
            self.curve.data = (steps, values)
        self.curve.visible = len(steps) > 0

    def _draw_snapshot(self) -> None:
        if not self.paths:
            return
        path = self.paths[min(int(self.snapshot.value), len(self.paths) - 1)]
        with Image.open(path) as image:
            self.grid.image = np.asarray(image.convert("RGB"))
        self.grid.visible = True
        self.caption.content = f"**{path.parent.name}**, step {int(path.stem)}: reference, render, normal, opacity"


def _set(control: Any, value: object) -> None:
    control.value = value  # mypy does not find the setter in viser's classes


def time_left(seconds: float) -> str:
    """Return a time as text, for example ", about 3 min left"; empty: it is not known."""
    if math.isnan(seconds):
        return ""
    return f", about {duration(seconds)} left"


class Every:
    """Says when a time has passed again."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, -math.inf

    def due(self) -> bool:
        """Return whether `seconds` have passed since this was last the case."""
        now = time.perf_counter()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
