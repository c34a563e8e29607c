"""From a config block to a prior with its weights."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch

from liftstudio.core import registry
from liftstudio.core.assets import input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.registry import Component, register
from liftstudio.core.weights import SUFFIXES, Weights, open_weights, pipeline_folder
from liftstudio.priors.base import Prior

KIND = "prior"
AUTO = "auto"
_NETWORK_SUFFIXES = (".json", ".txt", *SUFFIXES)  # options, words, weights


@register(AUTO)
class AutoPrior(Component):
    """The prior that recognises the weight file, with its own defaults for the options not given here."""

    kind: ClassVar[str] = KIND

    @dataclass
    class Config(Prior.Config):
        prompt: str = ""  # what the object is, in a few words, for a prior that reads text; others say that they do not


_open: WeakValueDictionary[str, Prior] = WeakValueDictionary()  # those in use, by all that decides them


@dataclass(frozen=True)
class ResolvedPrior:
    """A prior that a config names, before its networks are loaded; `resolve` makes it.

    block:  of the prior itself, never `type: auto`: its name and its options.
    opened: its weight file, if that is open already.
    """

    block: ComponentSpec
    opened: Weights | None = None

    @property
    def cls(self) -> type[Prior]:
        """The prior's class."""
        return registry.find(self.block.type, KIND)

    @cached_property
    def weights(self) -> Weights:
        """The weight file, opened once; no tensor is read.

        Raises:
            InputError: missing or unreadable weights; says where those of this prior are published.
        """
        return self.opened or _open_weights(self.block.options.weights, [self.cls])

    def check_count(self, count: int) -> None:
        """Raise an InputError where the weights tell how many views they make, and it is not `count`."""
        self.cls.check_count(self.weights, count)

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that differ where the networks differ.

        The digest of the weights, and their name, which may tell how the network is called; of the pipeline that these
        are a part of, and of other folders that options name, the files' names, sizes and times. What is on the hub
        goes by its name, which is among the options.

        Raises:
            InputError: as `weights`.
        """
        path = self.weights.path
        pipeline = pipeline_folder(path)
        options = dataclasses.asdict(self.block.options) | {"weights": str(pipeline or "")}
        places = {name: input_path(value) for name, value in options.items() if isinstance(value, str) and value}
        # Among them are texts, some too long for `Path.is_dir`.
        folders = {name: _listing(place) for name, place in places.items() if os.path.isdir(place)}  # noqa: PTH112
        names = [path.name, pipeline.name if pipeline else ""]
        return {"weights": file_digest(path), "names": names, "folders": folders}

    def load(self, device: torch.device) -> Prior:
        """The prior with its networks; who loads the same while it is in use gets the same one.

        So the stages of a run share their networks.

        Raises:
            InputError: missing, damaged or foreign weights.
        """
        key = json.dumps([to_plain(self.block), str(device)])
        prior = _open.get(key)
        if prior is None:
            prior = _open[key] = self.block.build(device=device)
        return prior


def resolve(block: ComponentSpec) -> ResolvedPrior:
    """The prior that a block of kind "prior" names, or, for `type: auto`, the one that its weights belong to.

    Says so if that prior does not read the text that the block has for it.

    Raises:
        InputError: for `type: auto`, missing or unreadable weights, or weights of no known prior.
    """
    if block.type != AUTO:
        return ResolvedPrior(block)
    known = dict(_known_priors())
    weights = _open_weights(block.options.weights, known.values())
    for name, prior in known.items():
        if prior.recognizes(weights):
            options = _known_options(name, prior, dataclasses.asdict(block.options))
            return ResolvedPrior(ComponentSpec(KIND, name, prior.Config(**options)), weights)
    raise InputError(f"{weights.path}: weights of no known prior; known: {', '.join(known)}")


def open_prior(block: ComponentSpec, device: torch.device) -> Prior:
    """The prior that a block of kind "prior" names, with its networks: see `resolve` and `ResolvedPrior.load`."""
    return resolve(block).load(device)


def _open_weights(text: str, priors: Iterable[type[Prior]]) -> Weights:
    return open_weights(text, _published(priors, text))


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
