"""Noise prediction for the views of a step, with and without the input image and the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # diffusers takes seconds to import
    from .network import MultiViewUNet


@dataclass(frozen=True)
class Branch:
    """Input of the network besides noisy latents and cameras.

    context: [N, D] float32 tokens of the text, then of the image if the network takes one.
    latent:  [4, h, w] float32 scaled latent of the image, as an extra frame (the pixel controller); None: no frame.
    """

    context: Tensor
    latent: Tensor | None


@dataclass(frozen=True)
class Condition:
    """The two branches of classifier-free guidance."""

    conditional: Branch
    unconditional: Branch


def make_condition(text: Tensor, image_tokens: Tensor | None, latent: Tensor | None) -> Condition:
    """Return both branches; without the image, as officially, the adaptor's tokens of zeros and a latent of zeros.

    Args:
        text: [2, L, D] of the prompt, then of the negative prompt.
        image_tokens: [2, N, D] the adaptor's output for the input image, then for zeros; None: no image.
        latent: [4, h, w] scaled latent of the input image; None: it is not a frame.
    """
    contexts = text if image_tokens is None else torch.cat([text, image_tokens], dim=1)
    latents = (None, None) if latent is None else (latent, torch.zeros_like(latent))
    return Condition(*(Branch(*shown) for shown in zip(contexts, latents, strict=True)))


def estimate_epsilon(
    unet: "MultiViewUNet", noisy: Tensor, timestep: int, cameras: Tensor, branches: Sequence[Branch]
) -> Tensor:
    """Return the noise [branches, O, F, 4, h, w] in F views of O objects under each branch, in one batch.

    Args:
        unet: the network.
        noisy: [O, F, 4, h, w] latents of unit variance.
        timestep: of all views.
        cameras: [O, F, 16], see `conditioning.camera_conditions`.
        branches: conditions.
    """
    objects, frames = noisy.shape[:2]
    sample = torch.cat([with_image_frame(noisy, branch.latent) for branch in branches])
    context = torch.stack([branch.context for branch in branches]).repeat_interleave(objects, dim=0)
    if sample.shape[1] > frames:
        cameras = F.pad(cameras, (0, 0, 0, 1))  # the image frame has no camera: zeros
    epsilon = unet(sample, timestep, context, cameras.repeat(len(branches), 1, 1))
    return epsilon[:, :frames].unflatten(0, (len(branches), objects))


def with_image_frame(noisy: Tensor, latent: Tensor | None) -> Tensor:
    """Return latents [O, F, ...] with the image's [...] appended as frame F + 1, if there is one."""
    if latent is None:
        return noisy
    return torch.cat([noisy, latent.to(noisy).expand(len(noisy), 1, *latent.shape)], dim=1)


def rescaled(estimate: Tensor, conditional: Tensor, share: float, frames: int) -> Tensor:
    """Return a guided estimate of x0 [T, ...] with its excess contrast reduced.

    share * std(c) / std(e) e + (1 - share) e (Lin et al. 2023, "Common diffusion noise schedules and sample steps are
    flawed", eq. 14 to 16, here for x0 as in MVDream and ImageDream), with standard deviations over all elements of each
    `frames` views of an object.

    Args:
        estimate: guided estimate e, T a multiple of `frames`.
        conditional: conditional estimate c.
        share: 0 to 1; 0: unchanged.
        frames: views per object.
    """
    objects, of_conditional = (tensor.unflatten(0, (-1, frames)) for tensor in (estimate, conditional))
    deviations = (tensor.flatten(1).std(1) + 1e-8 for tensor in (of_conditional, objects))
    factor = torch.div(*deviations).view(-1, *[1] * (objects.ndim - 1))
    return ((share * factor + 1 - share) * objects).flatten(0, 1)
