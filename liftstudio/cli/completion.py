"""Completion of the command line in a shell, by argcomplete: flags, names of configs, keys of their options.

In bash or zsh: eval "$(register-python-argcomplete liftstudio)".
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from liftstudio.core.assets import find_config, packaged
from liftstudio.core.errors import InputError


def complete(parser: argparse.ArgumentParser, commands: Iterable[str]) -> None:
    """Print what may come next and exit, if the shell asks for it; else do nothing.

    parser: has the flags, `--config` among them. commands: words that may come first.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    config = next(action for action in parser._actions if "--config" in action.option_strings)
    config.completer = _configs  # type: ignore[attr-defined]
    words = parser.add_argument("words", nargs="*")
    words.completer = lambda parsed_args, **_: options_of(parsed_args.config) or commands  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _configs(prefix: str, **_: Any) -> list[str]:
    own = [str(path) for path in Path(Path(prefix).parent).glob("*") if path.is_dir() or path.suffix == ".yaml"]
    return [*own, *sorted(path.stem for path in packaged("configs").glob("*.yaml"))]


def options_of(config: Path | None) -> list[str]:
    """Return the keys that a config file sets, each as `a.b.c=`; empty if there is none or it cannot be read."""
    try:
        data = yaml.safe_load(find_config(config).read_text()) if config is not None else {}
    except (InputError, OSError, yaml.YAMLError):
        return []
    return [f"{key}=" for key in _keys(data, "")] if isinstance(data, dict) else []


def _keys(data: dict[str, Any], path: str) -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"
