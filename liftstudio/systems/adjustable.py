"""The options of a stage that may be changed while it is optimised: learning rates, and the weights of its losses."""

from dataclasses import fields
from typing import Any

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.systems.optimization import ScheduledAdam
from liftstudio.systems.stage_config import StageConfig


class Adjustable:
    """Learning rates, and the weights that are not 0 at every step of the config, which is changed in place.

    What other weights need, a network or maps of the views, was not loaded.
    """

    def __init__(self, config: StageConfig, optimizer: ScheduledAdam) -> None:
        self.config = config
        self.places: dict[str, tuple[Any, str]] = {}  # dotted key in the stage -> the object and its field
        self.starts: dict[str, int] = {}  # of the weights -> the first step at which they count
        for path in optimizer.paths:
            self.places[f"optimizer.groups.{path}.lr" if path else "optimizer.lr"] = optimizer.options(path), "lr"
        for name, block in config.guidance.items():
            self._add_weights(f"guidance.{name}", block.options, block.options.start)
        self._add_weights("regularizers", config.regularizers, 0)

    def _add_weights(self, key: str, options: Any, start: int) -> None:
        for name in (field.name for field in fields(options) if field.name.startswith("lambda_")):
            value = getattr(options, name)
            if isinstance(value, Schedule) and not value.is_zero():
                self.places[f"{key}.{name}"], self.starts[f"{key}.{name}"] = (options, name), start

    def schedules(self) -> dict[str, Schedule]:
        """Return the present values by their dotted keys in the stage."""
        return {key: getattr(options, name) for key, (options, name) in self.places.items()}

    def change(self, option: str, schedule: Schedule, step: int) -> None:
        """Change an option from `step` on; see `System.change`."""
        if option not in self.places:
            raise InputError(f"{option}: cannot be changed in this stage; it has {', '.join(self.places)}")
        if any(value < 0 for _, value in schedule.points):
            raise InputError(f"{option}: expected 0 or more, got {schedule}")
        options, name = self.places[option]
        before = getattr(options, name)
        setattr(options, name, schedule)
        silent = self._silent_step(step)
        if silent is not None:
            setattr(options, name, before)
            raise InputError(f"{option}: no loss would be active at step {silent}; give one of them a weight")

    def _silent_step(self, step: int) -> int | None:
        """Return the first step from `step` on at which all weights are 0; None: there is none."""
        schedules = self.schedules()
        weights = [(start, schedules[key]) for key, start in self.starts.items()]
        for later in range(step, self.config.steps):
            if not any(later >= start and weight(later) != 0 for start, weight in weights):
                return later
        return None
