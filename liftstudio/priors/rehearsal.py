"""Rehearsals of large priors: their networks have fake weights, so they take no memory and make no numbers."""

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from liftstudio.core.allocations import Allocations
from liftstudio.core.config import ComponentSpec
from liftstudio.priors.base import Prior

ENCODING, DECODING, DENOISING, CONDITIONING = "encoding", "decoding", "denoising", "conditioning"
BALL_RADIUS = 0.4  # of the decoded ball, in image sizes


class Rehearsal:
    """Builds priors for a plan; those of latents get fake weights, the small bundled ones are what they are.

    A prior with fake weights does the same ops as a true one. Its results have the right shapes: estimates are zeros,
    images show a grey ball over white.
    """

    def __init__(self, allocations: Allocations) -> None:
        self.allocations = allocations
        self._weights: WeakKeyDictionary[Prior, int] = WeakKeyDictionary()
        self.most = 0  # bytes of the priors that were in use together, at most

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
            works = {
                "condition": (prior.condition, CONDITIONING),
                "denoise": (lambda *given, do=prior.denoise: _real(do(*given)), DENOISING),
                "denoise_separately": (lambda *given, do=prior.denoise_separately: _real(do(*given)), DENOISING),
                "encode": (functools.partial(_encode, prior.encode), ENCODING),
                "decode": (lambda *given, do=prior.decode: _balls(do(*given)), DECODING),
            }
            for name, (work, label) in works.items():
                setattr(prior, name, self._named(work, label))
        return prior

    def _named(self, work: Callable[..., Any], label: str) -> Callable[..., Any]:
        def do(*given: Any) -> Any:
            with self.allocations.doing(label):
                return work(*given)

        return do


def _is_fake(prior: Prior) -> bool:
    networks = (value for value in vars(prior).values() if isinstance(value, nn.Module))
    return any(isinstance(weight, FakeTensor) for network in networks for weight in network.parameters())


def _real(made: Any) -> Any:
    """Replace fake tensors by zeros."""
    return tree_map(lambda each: torch.zeros(each.shape) if isinstance(each, FakeTensor) else each, made)


def _balls(made: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Return pictures of a ball in the shapes of fake ones."""
    images, masks = made
    axis = (torch.arange(images.shape[1]) + 0.5) / images.shape[1] - 0.5
    ball = (axis[:, None].square() + axis.square() < BALL_RADIUS**2).float()[None, ..., None]
    shown = (1 - 0.5 * ball).expand(images.shape).contiguous()
    return shown, None if masks is None else ball.expand(masks.shape).contiguous()


def _encode(encode: Callable[[Tensor, Tensor], Tensor], images: Tensor, masks: Tensor) -> Tensor:
    if torch.is_grad_enabled() and images.requires_grad:
        return _Encoding.apply(encode, images, masks)
    return _real(encode(images, masks))


class _Encoding(torch.autograd.Function):
    """Encoding whose graph is fake, with zeros for latents and gradients."""

    @staticmethod
    def forward(context, encode, images, masks):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            context.pixels = images.detach().requires_grad_()
            context.latents = encode(context.pixels, masks)
        return torch.zeros(context.latents.shape)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        torch.autograd.grad(context.latents, context.pixels, torch.zeros_like(context.latents))
        return None, torch.zeros_like(context.pixels), None
