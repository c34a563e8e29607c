"""Changes of options while a run went on, kept in its folder so that a resume repeats them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.schedules import Schedule


@dataclass(frozen=True)
class Edit:
    """A change of one option of a stage.

    step:   number of steps of the stage that were done before it.
    option: its dotted key in the stage.
    value:  a schedule as in a config: a number, or [[step, value], ...].
    """

    stage: str
    step: int
    option: str
    value: object

    def __post_init__(self) -> None:
        if type(self.step) is not int or self.step < 0:
            raise InputError(f"step: expected 0 or more, got {self.step!r}")
        if not isinstance(self.stage, str) or not isinstance(self.option, str):
            raise InputError("stage, option: expected texts")
        Schedule.parse(self.value)

    @property
    def schedule(self) -> Schedule:
        """The value."""
        return Schedule.parse(self.value)

    def __str__(self) -> str:
        return f"{self.stage}, from step {self.step} on: {self.option} = {self.schedule}"


def read_edits(path: Path) -> list[Edit]:
    """Return the changes in a file, in the order in which they were made; none if there is no file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return [Edit(**entry) for entry in json.loads(path.read_text())]
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: no list of changes with stage, step, option and value: {error}") from None


def write_edits(path: Path, edits: list[Edit]) -> None:
    """Write what `read_edits` reads, a change to a line."""
    lines = ",\n".join(json.dumps(dataclasses.asdict(edit)) for edit in edits)
    atomic_write(path, f"[\n{lines}\n]\n")
