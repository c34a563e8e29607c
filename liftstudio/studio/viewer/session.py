"""What browsers see of a run, kept up to date by the thread that the run belongs to."""

from liftstudio.core.errors import InputError
from liftstudio.run.run import Run
from liftstudio.studio.viewer.history import Log, snapshots
from liftstudio.studio.viewer.painting import Painter, SceneId
from liftstudio.studio.viewer.panel import Every
from liftstudio.studio.viewer.window import Window

REFRESH_S = 1.0  # between looks into the run folder


class Session:
    """One run in one window. Nothing is done while no browser shows it."""

    def __init__(self, window: Window) -> None:
        self.window, self.painter = window, Painter()
        self.refresh = Every(REFRESH_S)
        self.has_training, self.failure = False, ""

    def show(self, run: Run, scene: SceneId, *, patience: float) -> bool:
        """Bring the browsers up to date; return whether a picture is still to be rendered.

        Args:
            run: it is between two steps.
            scene: tells this state of its scene from others.
            patience: see `Painter.paint`; 0: the run has nothing else to do.
        """
        clients = self.window.clients()
        if not clients:
            return False
        if self.refresh.due():
            self._refresh(run)
        try:
            more = self.painter.paint(run.system, scene, clients, self.window.panel.picture.value, patience)
            self.failure = ""
        except InputError as error:
            self.failure, more = str(error), False
        return more

    def _refresh(self, run: Run) -> None:
        panel = self.window.panel
        if not self.has_training:
            self.has_training = True
            self.window.show_training(run.inputs.views)
        if panel.asked.value:
            self.window.show_asked(run.system.cameras())
        panel.show_log(Log.read(run.folder.log_csv))
        panel.show_snapshots(snapshots(run.folder, run.system.stages))
