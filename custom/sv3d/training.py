"""Training of SV3D in miniature: first the autoencoder, then the denoising network with the image tower."""

import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.weights import open_weights
from liftstudio.data.cameras import concatenate
from liftstudio.metrics.images import psnr
from liftstudio.priors.latent_prior import LATENT_SCALE
from liftstudio.priors.parameterization import v_from_x0, v_scaling
from liftstudio.priors.samplers import karras_sigmas
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.evaluation import Protocol, evaluate
from liftstudio.training.rigs import counts
from liftstudio.training.task import Evaluation, PriorTask

from .conditioning import clip_pixels, frame_vectors
from .denoising import triangle
from .miniature import LATENT_CHANNELS, VECTOR_WIDTH, Size, TrainableSV3D
from .prior import SV3D

LEVELS = (SV3D.sigma_max, 5.0, 1.0)  # noise levels for evaluation
SHEET_SIGMAS = (16, 0.02, SV3D.sigma_max)  # steps, least and highest noise level of the sampler for the sheets
LEAST_SIGMA = 0.02  # in training
TOP_LOG_SIGMA = (2.0, math.log(SV3D.sigma_max))  # range in which ln(sigma) of `top_share` is uniform


@register("sv3d")
class SV3DTask(PriorTask):
    """Trains SV3D's own architecture in miniature, on orbits that end at the input view."""

    @dataclass
    class Config:
        size: Size = field(default_factory=Size)  # of the networks
        autoencoder_steps: PositiveInt = 2000  # first steps, for the autoencoder alone; none after `start_from`
        lambda_l1: NonNegativeFloat = 1.0  # weight of the absolute error of decoded images, next to the squared error
        lambda_kl: NonNegativeFloat = 1e-4  # weight of the KL divergence of the latents from a unit normal
        drop_image: UnitFloat = 0.12  # share of objects without input image, for classifier-free guidance
        top_share: UnitFloat = 0.15  # share of objects at high noise levels, with ln(sigma) uniform up to ln(700)
        log_sigma: tuple[float, float] = (0.7, 1.6)  # mean and standard deviation of ln(sigma) of the others

    network: TrainableSV3D
    has_phases = True  # first the autoencoder, then the other networks

    def __init__(self, config: Config, data: DataConfig, dtype: torch.dtype) -> None:
        config.size.check_resolution(data.resolution)
        least, self.frames = counts(data.rig)
        if least < 2:
            raise InputError(f"data.rig.views: expected 2 or more, an orbit that ends at the input view, got {least}")
        self.config, self.dtype = config, dtype
        self.network = TrainableSV3D(config.size, data.resolution)

    def load(self, weights: str) -> None:
        """See `PriorTask.load`."""
        self.network.load(open_weights(weights, SV3D.published))
        self.network.steps.fill_(self.config.autoencoder_steps)

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; the last of the T frames is the input view."""
        orbits = [closed(sample) for sample in samples]
        cameras = [orbit.rig.views for orbit in orbits]
        images = torch.stack([2 * orbit.images[..., :3] - 1 for orbit in orbits]).permute(0, 1, 4, 2, 3)
        side = images.shape[-1] // self.config.size.shrink
        return {
            "images": images.contiguous(),
            "input_image": torch.cat([clip_pixels(orbit.input_image[..., :3], images.shape[-1]) for orbit in orbits]),
            "vectors": torch.stack([frame_vectors(c.elevation_deg, c.azimuth_deg, VECTOR_WIDTH) for c in cameras]),
            "noise": torch.randn(*images.shape[:2], LATENT_CHANNELS, side, side, generator=generator),
            "sigma": self._draw_sigmas(len(samples), generator),
            "has_image": torch.rand(len(samples), generator=generator) >= self.config.drop_image,
        }

    def _draw_sigmas(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise levels [B], stratified: every batch has its share of low and high ones."""
        order, within = torch.randperm(count, generator=generator), torch.rand(count, generator=generator)
        share = (order + within) / count
        top = self.config.top_share
        high = TOP_LOG_SIGMA[0] + (TOP_LOG_SIGMA[1] - TOP_LOG_SIGMA[0]) * share / max(top, 1e-6)
        mean, deviation = self.config.log_sigma
        usual = mean + deviation * torch.special.ndtri((share - top) / max(1 - top, 1e-6))
        return torch.where(share < top, high, usual).exp().clamp(LEAST_SIGMA, SV3D.sigma_max)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the autoencoder's losses at first, later the squared error of v, not weighted by noise level."""
        self.network.steps += 1
        is_coding = self.network.steps <= self.config.autoencoder_steps
        device = batch["images"].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            return self._coding_losses(batch) if is_coding else self._denoising_loss(batch)

    def _coding_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        images, noise = batch["images"].flatten(0, 1), batch["noise"].flatten(0, 1)
        posterior = self.network.autoencoder.encode(images).latent_dist
        error = self.network.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float() - images
        self.network.measure(posterior.mean.detach())
        return {
            "coding": error.square().mean(),
            "coding_l1": self.config.lambda_l1 * error.abs().mean(),
            "kl": self.config.lambda_kl * posterior.kl().mean() / noise[0].numel(),
        }

    def _denoising_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            latents = self.network.encode(batch["images"].flatten(0, 1)).unflatten(0, batch["images"].shape[:2])
        sigma = batch["sigma"][:, None, None, None, None]
        noisy = latents + sigma * batch["noise"]
        output = self.velocity(noisy, batch, latents[:, -1] / LATENT_SCALE)
        return {"velocity": F.mse_loss(output, v_from_x0(noisy, latents, sigma))}

    def velocity(self, noisy: Tensor, batch: dict[str, Tensor], image: Tensor) -> Tensor:
        """Predict v [B, T, 4, h, w] of noisy latents; `image`: [B, 4, h, w] unscaled latents of the input view."""
        has_image = batch["has_image"][:, None].float()
        context = self.network.tower(pixel_values=batch["input_image"]).image_embeds * has_image
        scale = v_scaling(batch["sigma"])
        image = (image * has_image[..., None, None])[:, None].expand_as(noisy)
        sample = torch.cat([scale.c_in[:, None, None, None, None] * noisy, image], dim=2)
        return cast(Any, self.network.unet)(sample, scale.c_noise, context[:, None], batch["vectors"]).float()

    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Measure PSNR of novel views (single evaluations per noise level, and samples) and of decoded latents.

        Returns them with a sheet of images. The evaluated prior is loaded from a saved file, with float16 weights.
        """
        protocol = Protocol(LEVELS, karras_sigmas(*SHEET_SIGMAS), triangle, last_is_input=True)
        device = cast(TrainableSV3D, network).moments.device
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights.safetensors"
            self.save(network, path)
            prior = SV3D(SV3D.Config(str(path)), device=device)
            orbits = [closed(sample) for sample in samples]
            found = evaluate(prior, orbits, protocol, device)
            coded = [_coding_psnr(prior, orbit.images.to(device)) for orbit in orbits]
        return Evaluation({**found.metrics, "psnr_coded": sum(coded) / len(coded)}, found.sheet)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`; the layout is the official one."""
        cast(TrainableSV3D, network).write(path, self.frames)


def closed(sample: Sample) -> Sample:
    """Return the sample on an orbit as SV3D needs it: all views but the last by ascending azimuth, then the input view.

    On closed orbits the last view already is the input view; in users' captures, where views are anywhere, it is left
    out.
    """
    views, input_camera = sample.rig.views[:-1], sample.rig.input_camera
    order = ((views.azimuth_deg - input_camera.azimuth_deg) % 360).argsort()
    images = torch.cat([sample.images[:-1][order], sample.input_image[None]])
    return replace(
        sample, rig=replace(sample.rig, views=concatenate([views[order], input_camera])), images=images, depths=None
    )


def _coding_psnr(prior: SV3D, images: Tensor) -> float:
    """Return the PSNR of images [T, R, R, 4] after encoding and decoding."""
    colors, masks = images[..., :3], images[..., 3:]
    with torch.no_grad():
        return float(psnr(prior.decode(prior.encode(colors, masks))[0], colors).mean())
