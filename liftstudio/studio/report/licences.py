"""The licences of the weights that a run used."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.weights import is_hub_name
from liftstudio.metrics.embeddings import CLIP_PUBLISHED
from liftstudio.metrics.flow import RAFT_PUBLISHED
from liftstudio.priors.opening import AUTO, prior_class
from liftstudio.studio.report.record import Record, mapping

UNKNOWN = "not known to liftstudio; see where the weights come from"
_OTHER = {  # by option
    "clip_weights": f"CLIP is {CLIP_PUBLISHED}",
    "raft_weights": RAFT_PUBLISHED,
}
ELEVATION = f"{SCHEME}priors/elevation"  # estimates the elevation of a picture's camera


@dataclass(frozen=True)
class Licence:
    """What is known of the licence of weights; `attribution`: the authors to be named, if they are listed."""

    weights: str
    text: str
    attribution: str = ""


def licences(record: Record) -> list[Licence]:
    """Return the licences of all weights that a config names, each once; of stages, those that the run has."""
    stages = mapping(record.measured, "stages")
    blocks = dict[str, str]()
    for path, name, block in _weights(record.config, ()):
        if path[:2] == ("system", "stages") and stages and not stages.keys() & {*path[2:3]}:
            continue
        blocks.setdefault(str(block[name]), _bundled(str(block[name])) or _OTHER.get(name) or _published(block))
    if "elevation" in record.metrics:
        blocks.setdefault(ELEVATION, _bundled(ELEVATION))
    return [Licence(weights, text, _attribution(weights)) for weights, text in blocks.items()]


def _weights(data: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """Yield path, option and block of every option that names weights."""
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        if isinstance(value, str) and value and (name == "weights" or name.endswith("_weights")):
            yield path, name, data
        yield from _weights(value, (*path, str(name)))


def _bundled(weights: str) -> str:
    """Return the licence that the README of packaged weights states; empty if they are not packaged."""
    readme = input_path(weights) / "README.md"
    if not weights.startswith(SCHEME) or not readme.is_file():
        return ""
    found = re.search(r"^\| licence \| (.*) \|$", readme.read_text(), re.MULTILINE)
    return re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", found[1]) if found else UNKNOWN


def _attribution(weights: str) -> str:
    if not weights.startswith(SCHEME):
        return ""
    path = input_path("asset://priors/objects" if weights == ELEVATION else weights) / "ATTRIBUTION.md"
    return path.read_text() if path.is_file() else ""


def _published(block: dict[str, Any]) -> str:
    """Return where the official weights of a prior's class are published, and under which licence."""
    try:
        name, weights = str(block.get("type", AUTO)), str(block.get("weights", ""))
        if name != AUTO:
            return find(name, "prior").published or UNKNOWN
        if is_hub_name(weights):  # not looked up again: a report needs no network
            return f"see its page, huggingface.co/{'/'.join(weights.split('/')[:2])}"
        options = find(AUTO, "prior").Config(weights=weights)
        return prior_class(ComponentSpec("prior", AUTO, options)).published or UNKNOWN
    except InputError:  # the weights are not there any more, or the method is not installed
        return UNKNOWN
