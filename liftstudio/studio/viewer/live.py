"""The viewer of a run that goes on in this process: shows it between its steps, pauses and changes it."""

import contextlib
from collections.abc import Iterator

import yaml

from liftstudio.core.errors import InputError
from liftstudio.core.events import StageStep, WorkStep, listening
from liftstudio.core.logs import log
from liftstudio.run.run import Run
from liftstudio.studio.viewer.panel import Every, time_left
from liftstudio.studio.viewer.session import Session
from liftstudio.studio.viewer.window import Window

PATIENCE = 4.0  # a render takes at most a fifth of the time
PAUSED_S = 0.2  # between looks at whether a paused run shall stop
STATUS_S = 0.5


@contextlib.contextmanager
def viewing(host: str, port: int) -> Iterator[None]:
    """Show the run that this thread does inside the block.

    Raises:
        InputError: see `Window`.
    """
    window = Window(host, port, steerable=True)
    try:
        with listening(Live(window).hear):
            yield
    finally:
        window.close()


class Live:
    """Hears what a run does."""

    def __init__(self, window: Window) -> None:
        self.window, self.session = window, Session(window)
        self.status = Every(STATUS_S)
        self.has_failed = False

    def hear(self, event: WorkStep | StageStep) -> None:
        """Show the run as it is now; a fault of the viewer does not end it."""
        if self.has_failed:
            return
        try:
            self._hear(event)
        except Exception as error:
            self.has_failed = True
            log.warning("viewer: it stops here, the run goes on (%s: %s)", type(error).__name__, error)

    def _hear(self, event: WorkStep | StageStep) -> None:
        if isinstance(event, WorkStep):
            if self.window.clients() and self.status.due():
                self.window.panel.say(f"**{event.title}** {event.step}", event.fraction)
            return
        scene = event.stage, event.step
        self.session.show(event.run, scene, patience=PATIENCE)
        if self.window.clients() and self.status.due():
            self._say(event)
        if self.window.panel.is_paused and event.step < event.total:
            self._pause(event)

    def _pause(self, event: StageStep) -> None:
        """Wait, and do what the browsers ask for, until one lets the run go on or the run is to stop."""
        run, panel = event.run, self.window.panel
        log.info("viewer: paused at step %d of stage %s; go on at %s", event.step, event.stage, self.window.address)
        panel.show_schedules(run.system.schedules(), run.edits)
        while panel.is_paused and not run.stop.requested:
            while not panel.edits.empty():
                self._edit(run, *panel.edits.get())
            self._say(event)
            if not self.session.show(run, (event.stage, event.step), patience=0.0):
                self.window.wait(PAUSED_S)
        panel.let_go_on()

    def _edit(self, run: Run, option: str, text: str) -> None:
        panel = self.window.panel
        try:
            run.edit(option, _parsed(text))
        except InputError as error:
            panel.answer.content = f"**Not changed:** {error}"
            return
        panel.answer.content = "Changed."
        panel.show_schedules(run.system.schedules(), run.edits)

    def _say(self, event: StageStep) -> None:
        left = time_left(event.seconds_left)
        state = "  \npaused" if self.window.panel.is_paused else left
        failure = self.session.failure and f"  \n{self.session.failure}"
        text = f"**{event.stage}** step {event.step} of {event.total}{state}{failure}"
        self.window.panel.say(text, event.step / event.total)


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # which is no schedule
