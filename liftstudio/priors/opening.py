"""From a config block to a prior with its weights."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from liftstudio import registry
from liftstudio.config import Block
from liftstudio.errors import InputError
from liftstudio.priors.base import Prior
from liftstudio.priors.weights import Weights, open_weights
from liftstudio.registry import Component, register

KIND = "prior"
AUTO = "auto"


@register(AUTO)
class RecognizedPrior(Component):
    """The prior that recognises the weight file, with its own defaults for the options not given here."""

    kind: ClassVar[str] = KIND

    @dataclass
    class Config(Prior.Config):
        pass


def open_prior(block: Block, device: torch.device) -> Prior:
    """The prior that a block of kind "prior" names, or, for `type: auto`, the one that its weights belong to.

    Raises:
        InputError: missing, damaged or foreign weights.
    """
    return (_recognized(block) if block.type == AUTO else block).build(device=device)


def block_weights(block: Block) -> Weights:
    """The opened weight file of a block of kind "prior"; quick, as nothing is read.

    Raises:
        InputError: missing or unreadable weights; says where those of its type are published.
    """
    priors = dict(_known_priors()) if block.type == AUTO else {block.type: registry.find(block.type, KIND)}
    return open_weights(block.options.weights, "; ".join(p.published for p in priors.values() if p.published))


def _recognized(block: Block) -> Block:
    known, weights = dict(_known_priors()), block_weights(block)
    for name, prior in known.items():
        if prior.recognizes(weights):
            return Block(KIND, name, prior.Config(**dataclasses.asdict(block.options)))
    raise InputError(f"{weights.path}: weights of no known prior; known: {', '.join(known)}")


def _known_priors() -> Iterator[tuple[str, type[Prior]]]:
    for name in registry.names(KIND):
        if name != AUTO:
            with contextlib.suppress(InputError):  # one that lacks a package must not stand in the way of the others
                yield name, registry.find(name, KIND)
