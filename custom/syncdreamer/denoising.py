"""Estimates of the noise in all views: conditions kept or dropped around the network, views in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from liftstudio.priors.latent_prior import LATENT_SCALE

from .rig import Rig

if TYPE_CHECKING:  # diffusers takes seconds to import
    from .network import SyncDreamerNetwork


@dataclass(frozen=True)
class Condition:
    """The encoded input image.

    embedding:     [1, E] float32, from the CLIP tower, projected.
    latent:        [4, h, w] float32, from the autoencoder, scaled.
    elevation_deg: of its camera, degrees.
    """

    embedding: Tensor
    latent: Tensor
    elevation_deg: float


@dataclass(frozen=True)
class Branch:
    """Factors on the network's inputs other than a view's own noisy latents; 0 drops an input.

    context: image embedding and view angles, after their projection, so that its bias is scaled, too.
    volume:  frustum features, which come from all noisy views.
    latent:  the image's latents.
    """

    context: float = 1.0
    volume: float = 1.0
    latent: float = 1.0


EVERYTHING = Branch()
NOTHING = Branch(0.0, 0.0, 0.0)  # SyncDreamer's unconditional branch
VIEWS_ONLY = Branch(0.0, 1.0, 0.0)  # HarmonyView's eps(x^(1:N))


def reference_only(gain: float) -> Branch:
    """Return the branch of HarmonyView's eps(r); the gain on the image's latents is 4 in its code, 1 in its paper."""
    return Branch(1.0, 0.0, gain)


def estimate_epsilon(
    network: "SyncDreamerNetwork",
    rig: Rig,
    noisy: Tensor,
    timestep: int,
    condition: Condition,
    branches: Sequence[Branch],
    chunk: int,
) -> Tensor:
    """Estimate the noise [branches, N, 4, h, w] in noisy latents [N, 4, h, w], of unit variance, of all N views.

    The spatial volume is computed once, the rest for `chunk` views at a time; all branches share the frustum features.
    """
    time, view = network.embed_time(timestep), rig.view_embedding(condition.elevation_deg, rig.azimuth[0])
    volume = network.spatial(noisy, time, view, rig)
    chunks = []
    for start in range(0, len(rig), chunk):
        part = slice(start, start + chunk)
        context = network.embed_context(condition.embedding, view[part])
        frustums = network.frustum(volume, noisy.shape[-1], time, view[part], rig[part])
        shown = [_shown(branch, noisy[part], condition, context, frustums) for branch in branches]
        chunks.append(torch.stack([network(sample, timestep, *others) for sample, *others in shown]))
    return torch.cat(chunks, dim=1)


def _shown(
    branch: Branch, noisy: Tensor, condition: Condition, context: Tensor, frustums: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return sample, context and volumes as inputs of the network."""
    latent = (branch.latent / LATENT_SCALE * condition.latent).expand_as(noisy)  # unscaled, as from the encoder
    volumes = [branch.volume * features for features in frustums]
    return torch.cat([noisy, latent], dim=1), branch.context * context, volumes


def decomposed(everything: Tensor, views: Tensor, reference: Tensor, scales: tuple[float, float]) -> Tensor:
    """Return e + s1 (e - v) + s2 (e - r) of three estimates (Woo et al. 2024, "HarmonyView", as in its released code).

    s1 strengthens the influence of the input image, compared with the estimate v without it; s2 that of the other
    views, compared with the estimate r without them. The formula is the same for estimates of x0 and of the noise.
    """
    s1, s2 = scales
    return everything + s1 * (everything - views) + s2 * (everything - reference)
