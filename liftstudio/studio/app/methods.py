"""The configs among which the page lets choose, and what each of them takes."""

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from liftstudio.core.assets import find_config, packaged
from liftstudio.core.errors import InputError

OF_THE_PAGE = (
    "image",
    "images",
    "image_box",
    "data",
    "prompt",
    "runs_dir",
    "device",
)  # options with fields of their own
_COMMAND = re.compile(r"^\s*(python launch\.py|liftstudio) ")
_OPTION = re.compile(r"^\s+[\w.]+=")
_CONFIG = re.compile(r"configs/([\w-]+)\.yaml")


@dataclass(frozen=True)
class Method:
    """A config.

    about: what it does and needs, by the comment at the top of its file: paragraphs, between which are options to give.
    text:  of the file.
    takes: the options of the input that it has: "image", "images", "image_box", "prompt", "data".
    """

    name: str
    about: tuple[str, ...]
    text: str
    takes: frozenset[str]

    @property
    def estimates_elevation(self) -> bool:
        """Whether the elevation of the picture's camera is one of its options."""
        return "elevation_deg:" in self.text and "image" in self.takes


def method_names() -> list[str]:
    """Return the names of the configs in the current folder and of the packaged ones."""
    own = sorted(path.name for path in Path().glob("*.yaml") if "system" in _options(path.read_text(errors="replace")))
    packed = sorted(path.stem for path in packaged("configs").glob("*.yaml"))
    first = "sv3d-masked-sds"
    return [*own, first, *(name for name in packed if name != first)]


def method(name: str) -> Method:
    """Return the config of that name.

    Raises:
        InputError: it is none of `method_names`; any other file is not opened.
    """
    if name not in method_names():
        raise InputError(f"there is no method '{name}'")
    text = find_config(Path(name)).read_text()
    takes = {"image", "images", "image_box", "prompt", "data"} & _options(text).keys()
    return Method(name, _about(text), text, frozenset(takes))


def _options(text: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _about(text: str) -> tuple[str, ...]:
    """Return the comment at the top of a config as its parts: texts, and options, each a line of key=value.

    Command lines are left out with what continues them, and options that have fields of their own on the page.
    """
    parts, is_command = list[str](), False
    for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.removeprefix("#")
        is_command = bool(_COMMAND.match(words)) or (is_command and words.startswith("      "))
        if is_command:
            continue
        if _OPTION.match(words):
            own = words.removesuffix("\\")
            parts += [option for option in shlex.split(own) if option.partition("=")[0] not in OF_THE_PAGE]
        elif parts and not is_option(parts[-1]):
            parts[-1] += f" {words.strip()}"
        else:
            parts.append(words.strip())
    return tuple(_CONFIG.sub(r"\1", part) for part in parts)


def is_option(part: str) -> bool:
    """Return whether a part of `Method.about` is an option."""
    return _OPTION.match(f" {part}") is not None
