"""The noise in all views of a step: conditions kept or dropped about the network, views in chunks."""

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
    """The input image as the network sees it.

    embedding:     [1, E] float32 of the CLIP tower, projected.
    latent:        [4, h, w] float32 of the autoencoder, scaled.
    elevation_deg: of its camera.
    """

    embedding: Tensor
    latent: Tensor
    elevation_deg: float


@dataclass(frozen=True)
class Branch:
    """Factors on what the network is shown besides a view's own noisy latents; 0 drops it.

    context: the image's embedding and the view's angles, after their projection, so that its bias goes, too.
    volume:  the frustum's features, which come from all noisy views.
    latent:  the image's latents.
    """

    context: float = 1.0
    volume: float = 1.0
    latent: float = 1.0


EVERYTHING = Branch()
NOTHING = Branch(0.0, 0.0, 0.0)  # SyncDreamer's unconditional branch
VIEWS_ONLY = Branch(0.0, 1.0, 0.0)  # HarmonyView's eps(x^(1:N))


def reference_only(gain: float) -> Branch:
    """HarmonyView's eps(r); its released code has a gain of 4 on the image's latents, its paper none (1)."""
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
    """The noise [branches, N, 4, h, w] in noisy latents [N, 4, h, w] of unit variance of all N views.

    The spatial volume is made once. `chunk` views at a time go on from it; their frustums serve all branches.
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
    """Sample, context and volumes for the network."""
    latent = (branch.latent / LATENT_SCALE * condition.latent).expand_as(noisy)  # as the encoder gives them
    volumes = [branch.volume * features for features in frustums]
    return torch.cat([noisy, latent], dim=1), branch.context * context, volumes


def decomposed(everything: Tensor, views: Tensor, reference: Tensor, scales: tuple[float, float]) -> Tensor:
    """e + s1 (e - v) + s2 (e - r) of three estimates (Woo et al. 2024, "HarmonyView", as its released code has it).

    s1 strengthens what only the picture tells, by the estimate v without it; s2 what only the other views tell, by the
    estimate r without them. It is the same for estimates of x0 and of the noise.
    """
    s1, s2 = scales
    return everything + s1 * (everything - views) + s2 * (everything - reference)
