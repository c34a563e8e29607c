"""Configs as lists of options by dotted key, and what differs between them."""

import itertools
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from liftstudio.core.assets import packaged
from liftstudio.core.config import to_plain
from liftstudio.core.errors import InputError
from liftstudio.run.config import INPUTS, load_without_input
from liftstudio.studio.report.record import Record

Options = dict[str, str]  # dotted key -> value, as a command line takes it

ABSENT = "-"
PLACES = ("name", "tag", "runs_dir")  # options that say only where a run is


def flat(config: dict[str, Any]) -> Options:
    """Return the options of a config, except those that only say where the run is."""
    return {key: text for key, text in _flattened(config) if key not in PLACES}


def differences(several: Sequence[Options]) -> dict[str, list[str]]:
    """Return dotted key -> value in each config, for those options that are not the same in all.

    An option that only repeats a shorter one's values (views.image: ${image}) is left out.
    """
    keys = dict.fromkeys(key for options in several for key in options)
    rows = {key: [options.get(key, ABSENT) for options in several] for key in keys}
    changed = {key: values for key, values in rows.items() if len(set(values)) > 1}
    return {key: values for key, values in changed.items() if not _repeats(key, changed)}


def preset_of(record: Record) -> tuple[str, Options] | None:
    """Return name and options of the packaged config that a run was started from; None: it was another one."""
    for name in dict.fromkeys([_started_from(record), str(record.config.get("name", ""))]):
        path = packaged("configs") / f"{name}.yaml"
        if name and path.is_file():
            try:
                config = json.loads(json.dumps(to_plain(load_without_input(path, []))))
            except InputError:  # a method that is not installed any more
                return None
            return name, {key: "" if key in INPUTS and text == "none" else text for key, text in flat(config).items()}
    return None


def without_seeds(options: Options) -> Options:
    """Return what repeats of a run have in common."""
    return {key: text for key, text in options.items() if key.rpartition(".")[2] != "seed"}


def _flattened(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flattened(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _repeats(key: str, rows: dict[str, list[str]]) -> bool:
    return any(key.endswith(f".{other}") and rows[other] == rows[key] for other in rows)


def _started_from(record: Record) -> str:
    """Return the stem of the config file in the run's first command line; empty if that names none."""
    try:
        words = shlex.split(record.commands[0]) if record.commands else []
    except ValueError:
        return ""
    return next((Path(after).stem for word, after in itertools.pairwise(words) if word == "--config"), "")
