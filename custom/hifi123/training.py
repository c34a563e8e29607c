"""Training of Stable Diffusion 2's depth model in miniature: first the autoencoder, then UNet and text encoder."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, UnitFloat
from liftstudio.core.registry import register
from liftstudio.data.images import grid
from liftstudio.metrics.images import masked_psnr, psnr
from liftstudio.priors.latent_prior import LATENT_SCALE
from liftstudio.priors.samplers import scaled_linear_alpha_bars
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.task import Evaluation, PriorTask

from .captions import caption_tokens, draw_caption
from .ddim import invert, sample
from .depth import depth_channel, mask_channel
from .miniature import LATENT_CHANNELS, Size, TrainableDepth
from .model import inverting
from .prior import GREY, DepthPrior

LEVELS = (100, 300, 600)  # timesteps at which the noise prediction is evaluated
INVERSION = (20, 12)  # steps of the grid, and how many of them are inverted, for evaluation
NO_DEPTH = 0.0  # the channel's value all over an image without known depth


@register("depth-diffusion")
class DepthTask(PriorTask):
    """Stable Diffusion 2's depth model in miniature, trained on single images with depth and a caption.

    The autoencoder learns from small crops, since most of a whole image is plain grey.
    """

    @dataclass
    class Config:
        part: Literal["autoencoder", "unet"] = "autoencoder"  # what is trained; `unet` starts from the other's folder
        size: Size = field(default_factory=Size)  # of the networks
        crop: NonNegativeInt = 24  # pixels across the crops that the autoencoder learns from; 0: whole images
        lambda_l1: NonNegativeFloat = 1.0  # weight of the L1 error of decoded images, next to 1 for the squared error
        lambda_kl: NonNegativeFloat = 1e-4  # weight of the KL divergence of the latents from a unit Gaussian
        usual_grey: UnitFloat = 0.6  # fraction of images over the grey of enhancement; others: over a random grey
        mask_only: UnitFloat = 0.25  # fraction of images with the mask alone as depth
        drop_depth: UnitFloat = 0.1  # fraction of images without depth
        drop_text: UnitFloat = 0.1  # fraction of images with the empty text, for guidance

        def __post_init__(self) -> None:
            check_range("drop_depth", self.drop_depth, 0, 1 - self.mask_only)

    weights_name: ClassVar[str] = "model"
    network: TrainableDepth

    def __init__(self, config: Config, data: DataConfig, dtype: torch.dtype) -> None:
        config.size.check_resolution(data.resolution)
        if not 0 <= config.crop <= data.resolution or config.crop % config.size.shrink:
            raise InputError(
                f"task.crop: expected a multiple of {config.size.shrink} up to data.resolution, {data.resolution}, or "
                f"0 for whole images, got {config.crop}"
            )
        self.config, self.dtype = config, dtype
        self.side = data.resolution // config.size.shrink
        self.network = network = TrainableDepth(config.size, data.resolution)
        trains_coder = config.part == "autoencoder"
        network.vae.requires_grad_(trains_coder)
        network.unet.requires_grad_(not trains_coder)
        network.text_encoder.requires_grad_(not trains_coder)
        self.roots = torch.stack([(bars := scaled_linear_alpha_bars()).sqrt(), (1 - bars).sqrt()]).float()

    def load(self, weights: str) -> None:
        """See `PriorTask.load`; a folder."""
        self.network.load(weights)

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; every view is an independent image."""
        views = torch.cat([each.images for each in samples])
        images = self._over_greys(views, generator)
        if self.config.part == "autoencoder":
            images = self._parts(images, views[..., 3], generator)
            return {"images": images, "noise": self._draw_noise(images, generator)}
        return {
            "images": images,
            "depths": self._draw_depths(samples, generator),
            "tokens": self._draw_tokens(samples, generator),
            "noise": self._draw_noise(images, generator),
            "timesteps": self._draw_timesteps(len(images), generator),
        }

    def _draw_noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw noise [B, 4, h, w] of the shape of the images' latents."""
        side = images.shape[-1] // self.config.size.shrink
        return torch.randn(len(images), LATENT_CHANNELS, side, side, generator=generator)

    def _over_greys(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """Return views [B, R, R, 4] composited over greys, as [B, 3, R, R] in [-1, 1]."""
        is_usual, any_grey = torch.rand(2, len(views), 1, 1, 1, generator=generator)
        greys = torch.where(is_usual < self.config.usual_grey, GREY, any_grey)
        return 2 * before(greys, views).permute(0, 3, 1, 2) - 1

    def _parts(self, images: Tensor, alphas: Tensor, generator: torch.Generator) -> Tensor:
        """Return crops [B, C, crop, crop] of images [B, C, R, R], around random object points by alphas [B, R, R]."""
        size = self.config.crop
        if size == 0:
            return images
        parts = []
        for image, alpha in zip(images, alphas, strict=True):
            inside = (alpha >= min(0.5, float(alpha.max()))).nonzero()  # everywhere, if no object is visible
            middle = inside[int(torch.randint(len(inside), (), generator=generator))]
            top, left = (middle - size // 2).clamp(0, image.shape[-1] - size).tolist()
            parts.append(image[:, top : top + size, left : left + size])
        return torch.stack(parts)

    def _draw_tokens(self, samples: list[Sample], generator: torch.Generator) -> Tensor:
        """Draw the tokens [B, 77] of captions, or of the empty text."""
        captions = [draw_caption(each.object, generator) for each in samples for _ in each.images]
        is_told = torch.rand(len(captions), generator=generator) >= self.config.drop_text
        return torch.stack([caption_tokens(text if told else "") for text, told in zip(captions, is_told, strict=True)])

    def _draw_depths(self, samples: list[Sample], generator: torch.Generator) -> Tensor:
        """Draw depth channels [B, 1, h, w]: from depth, from the mask alone, or none."""
        channels = torch.cat([view_depths(each, self.side) for each in samples])
        masks = mask_channel(torch.cat([each.images[..., 3:] for each in samples]), (self.side, self.side))
        kind = torch.rand(len(channels), 1, 1, 1, generator=generator)
        least, most = self.config.drop_depth, self.config.drop_depth + self.config.mask_only
        return torch.where(kind < least, NO_DEPTH, torch.where(kind < most, masks, channels))

    def _draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw timesteps [B] int64, stratified: every batch has its share of low and high noise."""
        order, within = torch.randperm(count, generator=generator), torch.rand(count, generator=generator)
        return (len(self.roots[0]) * (order + within) / count).long().clamp(max=len(self.roots[0]) - 1)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return image errors and divergence of the autoencoder, or the squared noise error of the UNet.

        Raises:
            InputError: the UNet is to be trained, but there is no trained autoencoder.
        """
        coder = self.config.part == "autoencoder"
        if not coder and not self.network.can_code:
            raise InputError("start_from: expected the folder written with task.part=autoencoder, as task.part is unet")
        with torch.autocast(batch["images"].device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self._coding_losses(batch) if coder else self._noise_loss(batch)

    def _coding_losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        posterior = self.network.vae.encode(batch["images"]).latent_dist
        latents = posterior.mean + posterior.std * batch["noise"]
        error = self.network.vae.decode(latents).sample.float() - batch["images"]
        self.network.measure(posterior.mean.detach())
        return {
            "coding": error.square().mean(),
            "coding_l1": self.config.lambda_l1 * error.abs().mean(),
            "kl": self.config.lambda_kl * posterior.kl().mean() / latents[0].numel(),
        }

    def _noise_loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            latents = LATENT_SCALE * self.network.vae.encode(batch["images"]).latent_dist.mode().float()
        texts = self.network.text_encoder(batch["tokens"]).last_hidden_state
        noisy = self.noised(latents, batch["noise"], batch["timesteps"])
        seen = torch.cat([noisy, batch["depths"]], dim=1)
        found = cast(Any, self.network.unet)(seen, batch["timesteps"], texts).sample.float()
        return {"noise": F.mse_loss(found, batch["noise"])}

    def noised(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return states [B, 4, h, w] at timesteps [B], from clean latents and noise."""
        signal, share = self.roots.to(latents.device)[:, timesteps, None, None, None]
        return signal * latents + share * noise

    @torch.no_grad()
    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Return the PSNR of decoded latents; for the UNet also squared noise errors, and the PSNR after inversion.

        Evaluates the prior as opened from its folder, with float16 weights, on the first view of each object.
        """
        device = cast(TrainableDepth, network).moments.device
        with tempfile.TemporaryDirectory() as folder:
            self.save(network, Path(folder) / self.weights_name)
            prior = DepthPrior(DepthPrior.Config(str(Path(folder) / self.weights_name)), device=device)
            images = before(GREY, torch.cat([each.images[:1] for each in samples])).to(device)
            depths = torch.cat([view_depths(each, self.side)[:1] for each in samples]).to(device)
            latents = prior.encode(images)
            rows = {"coded": prior.decode(latents)}
            metrics = {}
            if self.config.part == "unet":
                metrics = self._noise_errors(prior, latents, depths)
                rows["inverted"] = prior.decode(reconstructed(prior, latents, depths, *INVERSION))
        metrics |= {f"psnr_{name}": float(psnr(row, images).mean()) for name, row in rows.items()}
        masks = torch.cat([each.images[:1, ..., 3:] for each in samples]).to(device)
        metrics["psnr_coded_object"] = float(masked_psnr(rows["coded"], images, masks).nanmean())
        return Evaluation(metrics, grid([list(row.cpu()) for row in (images, *rows.values())]))

    def _noise_errors(self, prior: DepthPrior, latents: Tensor, depths: Tensor) -> dict[str, float]:
        """Return the squared noise error at each of LEVELS, with the empty text; the noise is always the same."""
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        predict = inverting(prior.unet, depths, prior.prompts("").empty)
        metrics = {}
        for timestep in LEVELS:
            states = self.noised(latents, noise, torch.full((len(latents),), timestep, device=latents.device))
            metrics[f"noise_{timestep}"] = float(F.mse_loss(predict(states, timestep), noise))
        return metrics

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`; a folder as `checkpoint.open_folder` opens it."""
        cast(TrainableDepth, network).write(path)


def before(grey: Tensor | float, views: Tensor) -> Tensor:
    """Return views [V, R, R, 4], RGB over white and alpha, composited over a grey instead: [V, R, R, 3] in [0, 1]."""
    return views[..., :3] - (1 - views[..., 3:]) * (1 - grey)


def view_depths(sample: Sample, side: int) -> Tensor:
    """Return the depth channel [V, 1, side, side] of each view, from its mask alone where its depth is flat.

    Raises:
        InputError: the sample has no depth.
    """
    if sample.depths is None:
        raise InputError("data.captures: expected captures with depth, which this prior is trained on")
    masks = sample.images[..., 3:]
    return depth_channel(sample.depths, masks, (side, side), "distance", flat_by_mask=True)


def reconstructed(prior: DepthPrior, latents: Tensor, depths: Tensor, steps: int, levels: int) -> Tensor:
    """Return latents [B, 4, h, w] inverted by DDIM and sampled back, with the empty prompt: unchanged if ideal.

    Args:
        prior: the model.
        latents: [B, 4, h, w] clean.
        depths: [B, 1, h, w].
        steps: of the grid.
        levels: how many of the steps are inverted.
    """
    predict, levels_of = inverting(prior.unet, depths, prior.prompts("").empty), prior.grid(steps)
    return sample(predict, invert(predict, latents, levels_of, levels)[-1], levels_of, levels)
