"""From a config block to a prior with its weights."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch

from liftstudio.core import registry
from liftstudio.core.assets import input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.config import Block, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.registry import Component, register
from liftstudio.core.weights import SUFFIXES, Weights, open_weights, pipeline_folder
from liftstudio.priors.base import Prior

KIND = "prior"
AUTO = "auto"
_NETWORK_SUFFIXES = (".json", ".txt", *SUFFIXES)  # options, words, weights


@register(AUTO)
class RecognizedPrior(Component):
    """The prior that recognises the weight file, with its own defaults for the options not given here."""

    kind: ClassVar[str] = KIND

    @dataclass
    class Config(Prior.Config):
        prompt: str = ""  # what the object is, in a few words, for a prior that reads text; others say that they do not


_open: WeakValueDictionary[str, Prior] = WeakValueDictionary()  # those in use, by all that decides them


def open_prior(block: Block, device: torch.device) -> Prior:
    """The prior that a block of kind "prior" names, or, for `type: auto`, the one that its weights belong to.

    Who asks for the same at the same time gets the same one: stages of a run share their networks.

    Raises:
        InputError: missing, damaged or foreign weights.
    """
    known = recognized(block)
    key = json.dumps([to_plain(known), str(device)])
    prior = _open.get(key)
    if prior is None:
        prior = _open[key] = known.build(device=device)
    return prior


def check_count(block: Block, count: int) -> None:
    """Raise an InputError, without loading weights, where their number of views is known and another one."""
    registry.find(_known_type(block), KIND).check_count(block_weights(block), count)


def block_weights(block: Block) -> Weights:
    """The opened weight file of a block of kind "prior"; quick, as nothing is read.

    Raises:
        InputError: missing or unreadable weights; says where those of its type are published, or of that name.
    """
    priors = dict(_known_priors()) if block.type == AUTO else {block.type: registry.find(block.type, KIND)}
    return open_weights(block.options.weights, _published(priors.values(), block.options.weights))


def weights_key(block: Block) -> dict[str, Any]:
    """Plain data that differ where the networks differ that a block of kind "prior" opens.

    The digest of its weights, and their name, which may tell how the network is called; of the pipeline that these are
    a part of, and of other folders that options name, the files' names, sizes and times. What is on the hub goes by its
    name, which is among the options.

    Raises:
        InputError: as `block_weights`.
    """
    path = block_weights(block).path
    pipeline = pipeline_folder(path)
    options = dataclasses.asdict(block.options) | {"weights": str(pipeline or "")}
    places = {name: input_path(value) for name, value in options.items() if isinstance(value, str) and value}
    # Among them are texts, some too long for `Path.is_dir`.
    folders = {name: _listing(place) for name, place in places.items() if os.path.isdir(place)}  # noqa: PTH112
    names = [path.name, pipeline.name if pipeline else ""]
    return {"weights": file_digest(path), "names": names, "folders": folders}


def _listing(folder: Path) -> list[list[Any]]:
    """Name, size and time of the files in a folder and in the folders in it that networks may be made of."""
    paths = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in _NETWORK_SUFFIXES)
    known = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(paths))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in known]


def _published(priors: Iterable[type[Prior]], weights: str) -> str:
    """Where official weights are found: of the priors which name that file, or, if none does, of all."""
    texts = [prior.published for prior in priors if prior.published]
    whole_name = re.compile(rf"(?<![\w.-]){re.escape(Path(weights).name)}(?![\w-])")
    return "; ".join([text for text in texts if whole_name.search(text)] or texts)


def recognized(block: Block) -> Block:
    """The block of the prior itself, if it is `type: auto`; says so if that prior does not read the text.

    Raises:
        InputError: missing or unreadable weights, or weights of no known prior.
    """
    if block.type != AUTO:
        return block
    name = _known_type(block)
    prior = registry.find(name, KIND)
    return Block(KIND, name, prior.Config(**_known_options(name, prior, dataclasses.asdict(block.options))))


def _known_type(block: Block) -> str:
    if block.type != AUTO:
        return block.type
    known, weights = dict(_known_priors()), block_weights(block)
    for name, prior in known.items():
        if prior.recognizes(weights):
            return name
    raise InputError(f"{weights.path}: weights of no known prior; known: {', '.join(known)}")


def _known_options(name: str, prior: type[Prior], options: dict[str, Any]) -> dict[str, Any]:
    """Of the options of `type: auto`, those that the prior has: a text may not be among them."""
    fields = {field.name for field in dataclasses.fields(prior.Config)}
    text = options["prompt"]
    if text and "prompt" not in fields:
        log.info("prior '%s' reads no text: the prompt %r stays in the config and has no effect", name, text)
    return {key: value for key, value in options.items() if key in fields}


def _known_priors() -> Iterator[tuple[str, type[Prior]]]:
    for name in registry.names(KIND):
        if name != AUTO:
            with contextlib.suppress(InputError):  # one that lacks a package must not stand in the way of the others
                yield name, registry.find(name, KIND)
