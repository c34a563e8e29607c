"""SV3D's estimate of clean latents: scaling, conditioning and guidance around the network; in float32."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from liftstudio.priors.classifier_free import guided
from liftstudio.priors.parameterization import v_scaling

Shape = Literal["triangle", "triangle-by-azimuth", "linear", "constant"]  # of guidance scales over an orbit


@dataclass(frozen=True)
class Condition:
    """The encoded input image.

    embedding: [tokens, D] float32, from the CLIP tower.
    latent:    [4, h, w] float32, from the autoencoder, unscaled.
    """

    embedding: Tensor
    latent: Tensor

    def unconditional(self) -> "Condition":
        """Return the unconditional branch of guidance: without the image; the frame vectors are kept."""
        return Condition(torch.zeros_like(self.embedding), torch.zeros_like(self.latent))


def estimate_x0(unet: nn.Module, latents: Tensor, sigma: float, conditions: list[Condition], vectors: Tensor) -> Tensor:
    """Return estimates of x0 [B, T, 4, h, w] from the same noisy latents under B conditions, in one batch.

    Args:
        latents: [T, 4, h, w] float32, x0 + sigma * noise.
        vectors: [T, A] float32, see `conditioning.frame_vectors`.
    """
    batch, frames = len(conditions), len(latents)
    scale = v_scaling(torch.tensor(sigma))
    image = torch.stack([condition.latent for condition in conditions])[:, None].expand(-1, frames, -1, -1, -1)
    noisy = (scale.c_in * latents).expand(batch, *latents.shape)
    output = unet(
        torch.cat([noisy, image], dim=2),
        scale.c_noise.to(latents.device).expand(batch),
        torch.stack([condition.embedding for condition in conditions]),
        vectors.expand(batch, *vectors.shape),
    )
    return scale.c_out * output.float() + scale.c_skip * latents


def guided_x0(
    unet: nn.Module,
    latents: Tensor,
    sigma: float,
    condition: Condition,
    vectors: Tensor,
    guidance_scale: Tensor,
    *,
    in_one_batch: bool,
) -> Tensor:
    """Return the guided estimate of x0 [T, 4, h, w]; `guidance_scale`: [T]; the rest as for `estimate_x0`."""
    branches = [condition, condition.unconditional()]
    if in_one_batch:
        both = estimate_x0(unet, latents, sigma, branches, vectors)
    else:
        both = torch.cat([estimate_x0(unet, latents, sigma, [branch], vectors) for branch in branches])
    return guided(both[0], both[1], guidance_scale)


def shaped_scales(shape: Shape, azimuth_deg: Tensor, most: float, least: float = 1.0) -> Tensor:
    """Return guidance scales [T] of the views of an orbit that ends at the input view (Voleti et al. 2024, fig. 4).

    Args:
        shape: triangle, from `least` to `most` half-way and back, frame by frame as in the released sampler;
            triangle-by-azimuth, the same by the angle to the input view, where azimuths are irregular; linear, from
            `least` at the first frame to `most` at the last, as in SVD's sampler; constant, `most` for all.
        azimuth_deg: [T] of the views; the last is that of the input view.
        most, least: the highest and the lowest scale.
    """
    if shape == "constant":
        return torch.full_like(azimuth_deg, most)
    if shape == "linear":
        return torch.linspace(least, most, len(azimuth_deg), device=azimuth_deg.device)
    if shape == "triangle":
        return triangle(len(azimuth_deg), least, most).to(azimuth_deg.device)
    off_deg = ((azimuth_deg - azimuth_deg[-1] + 180) % 360 - 180).abs()
    return least + (most - least) * off_deg / 180


def triangle(frames: int, least: float = 1.0, most: float = 2.5) -> Tensor:
    """Return guidance scales [T] of a closed orbit: `least` at both ends, `most` half-way, linear in between.

    The defaults are SV3D's: weak near the input view, strong behind the object.
    """
    half_way = 1 - (2 * torch.linspace(0, 1, frames) - 1).abs()
    return least + (most - least) * half_way
