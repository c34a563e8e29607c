"""Score distillation, as pure functions of tensors.

Latents z0 are noised to z = z0 + sigma * eps; D(z; sigma) is a prior's estimate of the clean latents. Score
distillation (Poole et al. 2022, "DreamFusion", eq. 3) uses w (eps_hat - eps) as the gradient of z0, without the
network's Jacobian. With eps_hat = (z - D) / sigma (Karras et al. 2022, "EDM", eq. 3) that is w (z0 - D) / sigma.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from liftstudio.core.memory import Chunks

Encoder = Callable[[Tensor, Tensor], Tensor]  # images [T, R, R, 3], masks [T, R, R, 1] -> latents [T, C, h, w]


def draw_sigma(generator: torch.Generator, log_mean: float, log_std: float, bounds: tuple[float, float]) -> float:
    """Draw a noise level, log sigma ~ N(log_mean, log_std^2) within `bounds` (EDM, table 1), by one random number."""
    ends = (torch.tensor(bounds, dtype=torch.float64).log() - log_mean) / log_std
    low, high = torch.special.ndtr(ends).tolist()
    quantile = low + (high - low) * torch.rand((), dtype=torch.float64, generator=generator, device=generator.device)
    log_sigma = log_mean + log_std * torch.special.ndtri(quantile).item()
    return math.exp(min(max(log_sigma, math.log(bounds[0])), math.log(bounds[1])))


def sds_weight(sigma: float) -> float:
    """Return w = sigma^2 / (1 + sigma^2): DreamFusion's sigma_t^2 = 1 - alpha_bar_t, with sigma noise over signal."""
    return sigma**2 / (1 + sigma**2)


def sds_loss(latents: Tensor, denoised: Tensor, sigma: float, mask: Tensor | float = 1.0) -> Tensor:
    """Return a scalar with the gradient of score distillation: 1/2 w / sigma * mean of M (z0 - D)^2, D held fixed.

    Its gradient with respect to the N elements of z0 is w M (z0 - D) / (sigma N). The mean is over all elements,
    whatever the mask, so a smaller mask gives a weaker loss.

    latents, denoised: z0 and D, [T, C, h, w]. mask: M in [0, 1], broadcast against them; no gradient flows to it.
    """
    return sds_weight(sigma) / sigma * reconstruction_loss(latents, denoised, mask)


def reconstruction_loss(latents: Tensor, denoised: Tensor, mask: Tensor | float = 1.0) -> Tensor:
    """Return 1/2 mean of M (z0 - D)^2, D held fixed: score distillation weighted by sigma.

    It pulls z0 towards the estimate itself, equally at all noise levels (Shi et al. 2023, "MVDream", eq. 5, without its
    expectation). The authors sum over a view's elements instead: their loss is C h w times this one.

    latents, denoised, mask: as in `sds_loss`.
    """
    if isinstance(mask, Tensor):
        mask = mask.detach()
    return 0.5 * (mask * (latents - denoised.detach()).square()).mean()


def encode_in_chunks(encode: Encoder, images: Tensor, masks: Tensor, chunks: Chunks) -> Tensor:
    """Return `encode(images, masks)`, keeping the graph of only one chunk of frames in memory at a time.

    The latents are computed without a graph. In the backward pass each chunk is encoded again with one, which passes
    the gradient on to its pixels. `encode` must be deterministic and treat frames independently.

    images: [T, R, R, 3]. masks: [T, R, R, 1]. Returns [T, C, h, w].
    """
    return _ChunkedEncoding.apply(encode, images, masks, chunks)


class _ChunkedEncoding(torch.autograd.Function):
    @staticmethod
    def forward(context, encode: Encoder, images: Tensor, masks: Tensor, chunks: Chunks) -> Tensor:  # type: ignore[no-untyped-def]
        context.save_for_backward(images, masks)
        context.encode, context.chunks = encode, chunks
        return torch.cat(chunks.map(encode, images, masks))

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        work = functools.partial(_pixel_gradients, context.encode)
        pieces = context.chunks.map(work, *context.saved_tensors, gradient)
        images, masks = (torch.cat(gradients) for gradients in zip(*pieces, strict=True))
        return None, images, masks, None


def _pixel_gradients(encode: Encoder, images: Tensor, masks: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    pixels = images.detach().requires_grad_(), masks.detach().requires_grad_()
    with torch.enable_grad():
        latents = encode(*pixels)
    return torch.autograd.grad(latents, pixels, gradient, allow_unused=True, materialize_grads=True)
