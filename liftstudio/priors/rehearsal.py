"""Rehearsals of large priors: their networks have fake weights, so they take no memory and make no numbers."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from liftstudio.core.allocations import Allocations
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.priors.base import Prior

ENCODING, DECODING, DENOISING, CONDITIONING = "encoding", "decoding", "denoising", "conditioning"
BALL_RADIUS = 0.4  # of the decoded ball, in image sizes


class Rehearsal:
    """Builds priors for a plan; those of latents get fake weights, the small bundled ones are what they are.

    A prior with fake weights does the same ops as a true one, but only once for each shape of its inputs. Its results
    have the right shapes: estimates are zeros, images show a grey ball over white.

    most: bytes of the priors that were in use together, at most.
    """

    def __init__(self, allocations: Allocations) -> None:
        self.allocations, self.most = allocations, 0
        self._weights: WeakKeyDictionary[Prior, int] = WeakKeyDictionary()
        self._known: dict[tuple[Any, ...], tuple[Any, int]] = {}  # prior, work, shapes -> fake result, bytes it took

    @property
    def weights(self) -> int:
        """Bytes of the priors in use."""
        return sum(self._weights.values())

    def build(self, block: ComponentSpec, device: torch.device) -> Prior:
        """Return the prior of a config block."""
        before = self.allocations.live
        prior: Any = block.build(device=device)
        self._weights[prior] = self.allocations.live - before
        self.most = max(self.most, self.weights)
        if _is_fake(prior):
            own = functools.partial(self._done, json.dumps(to_plain(block)))
            prior.condition = functools.partial(own, CONDITIONING, prior.condition)
            prior.decode = _then(_balls, functools.partial(own, DECODING, prior.decode))
            for name in ("denoise", "denoise_separately"):
                setattr(prior, name, _then(_zeros, functools.partial(own, DENOISING, getattr(prior, name))))
            prior.encode = functools.partial(_encode, functools.partial(own, ENCODING), prior.encode)
        return prior

    def _done(self, prior: str, label: str, work: Callable[..., Any], *given: Any) -> Any:
        """Return the fake result of a work, and count what it takes."""
        key = (prior, label, getattr(work, "__name__", ""), *_shapes(given))
        with self.allocations.doing(label):
            if key in self._known:
                self.allocations.note(self._known[key][1])
            else:
                made, extra = self.allocations.extra(lambda: work(*given))
                self._known[key] = made if label == CONDITIONING else tree_map(_without_memory, made), extra
        return self._known[key][0]


def _without_memory(made: Any) -> Any:
    return made.to("meta") if isinstance(made, Tensor) else made


def _then(change: Callable[[Any], Any], work: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: change(work(*given))


def _shapes(given: Any) -> Iterator[Any]:
    """Yield the shapes of all tensors in arguments and in the fields of dataclasses among them."""
    for each in given:
        if isinstance(each, Tensor):
            yield tuple(each.shape)
        elif is_dataclass(each):
            yield from _shapes(getattr(each, field.name) for field in fields(each))


def _is_fake(prior: Prior) -> bool:
    networks = (value for value in vars(prior).values() if isinstance(value, nn.Module))
    return any(isinstance(weight, FakeTensor) for network in networks for weight in network.parameters())


def _zeros(made: Any) -> Any:
    """Replace fake tensors by zeros."""
    return tree_map(lambda each: torch.zeros(each.shape) if isinstance(each, FakeTensor) else each, made)


def _balls(made: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Return pictures of a ball in the shapes of fake ones."""
    images, masks = made
    axis = (torch.arange(images.shape[1]) + 0.5) / images.shape[1] - 0.5
    ball = (axis[:, None].square() + axis.square() < BALL_RADIUS**2).float()[None, ..., None]
    shown = (1 - 0.5 * ball).expand(images.shape).contiguous()
    return shown, None if masks is None else ball.expand(masks.shape).contiguous()


def _encode(done: Callable[..., Tensor], encode: Callable[[Tensor, Tensor], Tensor], *frames: Tensor) -> Tensor:
    """Return zeros for latents, with a gradient of zeros if the frames need one."""
    if not (torch.is_grad_enabled() and any(frame.requires_grad for frame in frames)):
        return _zeros(done(encode, *frames))

    def encode_and_back(*pixels: Tensor) -> Tensor:
        own = [each.detach().requires_grad_() for each in pixels]
        latents = encode(*own)
        torch.autograd.grad(latents, own, torch.zeros_like(latents), allow_unused=True)
        return latents.detach()

    latents = torch.zeros(done(encode_and_back, *frames).shape)
    return latents + 0 * sum(frame.sum() for frame in frames)
