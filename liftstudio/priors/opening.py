"""Opening the prior that a config block names, with its weights."""

import contextlib
import contextvars
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
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
from liftstudio.core.weights import SUFFIXES, Weights, is_hub_name, open_weights, pipeline_folder
from liftstudio.priors.base import Prior

KIND = "prior"
AUTO = "auto"
_NETWORK_SUFFIXES = (".json", ".txt", *SUFFIXES)  # options, vocabularies, weights


@register(AUTO)
class AutoPrior(Component):
    """The prior that recognises the weight file; it has its own defaults for options that are not given here."""

    kind: ClassVar[str] = KIND

    @dataclass
    class Config(Prior.Config):
        prompt: str = ""  # the object in a few words, for a prior that reads text; others log that they ignore it


Build = Callable[[ComponentSpec, torch.device], Prior]


@dataclass(frozen=True)
class _Shelf:
    """How priors are made, and those in use, by config and device."""

    build: Build
    open: WeakValueDictionary[str, Prior]


_usual = _Shelf(lambda block, device: block.build(device=device), WeakValueDictionary())
_shelf: contextvars.ContextVar[_Shelf] = contextvars.ContextVar("shelf", default=_usual)


@contextlib.contextmanager
def built_by(build: Build) -> Iterator[None]:
    """Let `build` make the priors that are loaded inside the block; none of them is used outside."""
    token = _shelf.set(_Shelf(build, WeakValueDictionary()))
    try:
        yield
    finally:
        _shelf.reset(token)


@dataclass(frozen=True)
class ResolvedPrior:
    """A prior that a config names, before its networks are loaded; made by `resolve`.

    block:  config block of the prior itself, never `type: auto`.
    opened: its weight file, if it is already open.
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
            InputError: missing or unreadable weights; the message says where this prior's are published.
        """
        return self.opened or _open_weights(self.block.options.weights, [self.cls])

    def check_count(self, count: int) -> None:
        """Raise an InputError if the weight file fixes the number of views and it is not `count`."""
        self.cls.check_count(self.weights, count)

    def fingerprint(self) -> dict[str, Any]:
        """Return plain data that differ if the networks differ.

        They are the digest and the name of the weight file, as the name may tell the variant; and the names, sizes and
        times of the files in its pipeline folder and in other folders that options name. Networks on the hub are
        identified by their name, which is among the options.

        Raises:
            InputError: as `weights`.
        """
        path = self.weights.path
        pipeline = pipeline_folder(path)
        options = dataclasses.asdict(self.block.options) | {"weights": str(pipeline or "")}
        places = {name: input_path(value) for name, value in options.items() if isinstance(value, str) and value}
        # Some values are texts, which may be too long for `Path.is_dir`.
        folders = {name: _listing(place) for name, place in places.items() if os.path.isdir(place)}  # noqa: PTH112
        names = [path.name, pipeline.name if pipeline else ""]
        return {"weights": file_digest(path), "names": names, "folders": folders}

    def load(self, device: torch.device) -> Prior:
        """Return the prior with its networks; while it is in use, loading it again returns the same object.

        Stages of a run thus share their networks.

        Raises:
            InputError: missing or damaged weights, or weights of another model.
        """
        key = json.dumps([to_plain(self.block), _file_state(self.block.options.weights), str(device)])
        shelf = _shelf.get()
        prior = shelf.open.get(key)
        if prior is None:
            prior = shelf.open[key] = shelf.build(self.block, device)
        return prior


def resolve(block: ComponentSpec) -> ResolvedPrior:
    """Return the prior that a block of kind "prior" names, or, for `type: auto`, the one that its weights belong to.

    It logs if that prior ignores the block's prompt.

    Raises:
        InputError: for `type: auto`, missing or unreadable weights, or weights of no known prior.
    """
    if block.type != AUTO:
        return ResolvedPrior(block)
    name, weights = _recognized(block)
    prior = registry.find(name, KIND)
    options = _known_options(name, prior, dataclasses.asdict(block.options))
    return ResolvedPrior(ComponentSpec(KIND, name, prior.Config(**options)), weights)


def prior_class(block: ComponentSpec) -> type[Prior]:
    """Return the class of the prior that `resolve` returns for a block; nothing is logged.

    Raises:
        InputError: as `resolve`.
    """
    return registry.find(block.type if block.type != AUTO else _recognized(block)[0], KIND)


def check_weights(block: ComponentSpec) -> None:
    """Check the weights that a block names, as far as nothing is downloaded for it.

    Raises:
        InputError: as `resolve`.
    """
    if not is_hub_name(block.options.weights):
        cls = prior_class(block)
        if block.type != AUTO:
            _open_weights(block.options.weights, [cls])


def _recognized(block: ComponentSpec) -> tuple[str, Weights]:
    """Return the name of the prior that the weights of a block of `type: auto` belong to, and the opened weights."""
    known = dict(_known_priors())
    weights = _open_weights(block.options.weights, known.values())
    for name, prior in known.items():
        if prior.recognizes(weights):
            return name, weights
    raise InputError(f"{weights.path}: not weights of a known prior; known: {', '.join(known)}")


def open_prior(block: ComponentSpec, device: torch.device) -> Prior:
    """Load the prior that a block of kind "prior" names; see `resolve` and `ResolvedPrior.load`."""
    return resolve(block).load(device)


def _open_weights(text: str, priors: Iterable[type[Prior]]) -> Weights:
    return open_weights(text, _published(priors, text))


def _file_state(weights: str) -> list[Any]:
    """Return what changes if a weight file or folder is replaced by another: place, time and size."""
    path = input_path(weights)
    stat = path.stat() if weights and path.exists() else None
    return [str(path.resolve()), stat and [stat.st_mtime_ns, stat.st_size]]


def _listing(folder: Path) -> list[list[Any]]:
    """Return name, size and time of the network files in a folder and its subfolders."""
    paths = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in _NETWORK_SUFFIXES)
    known = ((path.relative_to(folder).as_posix(), path.stat()) for path in sorted(paths))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in known]


def _published(priors: Iterable[type[Prior]], weights: str) -> str:
    """Return where official weights are published: of the priors that mention this file, or of all if none does."""
    texts = [prior.published for prior in priors if prior.published]
    whole_name = re.compile(rf"(?<![\w.-]){re.escape(Path(weights).name)}(?![\w-])")
    return "; ".join([text for text in texts if whole_name.search(text)] or texts)


def _known_options(name: str, prior: type[Prior], options: dict[str, Any]) -> dict[str, Any]:
    """Return those options of `type: auto` that the prior has; logs if `prompt` is not among them."""
    fields = {field.name for field in dataclasses.fields(prior.Config)}
    text = options["prompt"]
    if text and "prompt" not in fields:
        log.info("prior '%s' reads no text: the prompt %r stays in the config and has no effect", name, text)
    return {key: value for key, value in options.items() if key in fields}


def _known_priors() -> Iterator[tuple[str, type[Prior]]]:
    for name in registry.names(KIND):
        if name != AUTO:
            with contextlib.suppress(InputError):  # a prior with a missing package must not block the others
                yield name, registry.find(name, KIND)
