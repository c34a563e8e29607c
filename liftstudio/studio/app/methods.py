"""The configs among which the page lets choose, and what each of them takes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from liftstudio.core.assets import find_config, packaged
from liftstudio.core.errors import InputError

_COMMAND = re.compile(r"^\s*(python launch\.py|liftstudio) ")


@dataclass(frozen=True)
class Method:
    """A config.

    about: what it does and needs, by the comment at the top of its file.
    text:  of the file.
    takes: the options of the input that it has: "image", "images", "image_box", "prompt", "data".
    """

    name: str
    about: str
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


def _about(text: str) -> str:
    """Return the comment at the top of a config, without its command lines and what continues them."""
    said, in_command = list[str](), False
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#")
        in_command = bool(_COMMAND.match(words)) or (in_command and words.startswith("      "))
        if not in_command and not re.match(r"\s+[\w.]+=", words):
            said.append(words.strip())
    return " ".join(" ".join(said).split())
