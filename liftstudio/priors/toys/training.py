"""How the bundled prior is trained."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.cameras import concatenate
from liftstudio.checks import check_multiples, check_range
from liftstudio.errors import InputError
from liftstudio.files import atomic_path
from liftstudio.priors.layers import HEAD_WIDTH
from liftstudio.priors.projections import projections
from liftstudio.priors.samplers import karras_sigmas
from liftstudio.priors.toys.network import Size, ToysNetwork
from liftstudio.priors.toys.prior import ToysPrior
from liftstudio.priors.training.data import DataConfig, Sample
from liftstudio.priors.training.evaluation import Protocol, evaluate
from liftstudio.priors.training.rigs import counts
from liftstudio.priors.training.task import Evaluation, PriorTask
from liftstudio.priors.volume_prior import RESOLUTION, SIGMA_MAX
from liftstudio.priors.weights import load_module, open_weights
from liftstudio.registry import register

LEVELS = (SIGMA_MAX, 5.0, 1.0)  # noise levels that are measured
SHEET_SIGMAS = (12, 0.1, SIGMA_MAX)  # steps, least and highest noise level of the sampler, for the sheets
LIFTED = ("views", "projections", "sigma", "has_image", "has_views")  # parts of a batch


@register("toys")
class ToysTask(PriorTask):
    """The denoiser with a volume inside, on rays of its renderings."""

    @dataclass
    class Config:
        size: Size = field(default_factory=Size)  # of the network
        rays: int = 1536  # per object and step
        object_share: float = 0.7  # of the rays, near the object
        drop_image: float = 0.08  # share of objects without prompt
        drop_views: float = 0.08  # share of objects without noisy views
        top_share: float = 0.25  # of objects at the highest noise level
        log_sigma: tuple[float, float] = (0.9, 1.6)  # mean and deviation of ln(sigma) of the others
        lambda_mask: float = 0.5  # weight of the opacity's error, beside that of the colour
        lambda_occupancy: float = 0.5  # weight of the cross entropy of the grid's occupancy; captures have none

        def __post_init__(self) -> None:
            for name in ("drop_image", "drop_views", "top_share"):
                check_range(name, getattr(self, name), 0, 1)
            check_range("object_share", self.object_share, 0.01, 0.99)  # at either end there may be too few pixels
            check_range("rays", self.rays, 1)
            for name in ("lambda_mask", "lambda_occupancy"):
                check_range(name, getattr(self, name), 0)
            _check_size(self.size)

    extra_views = 1  # that are not among the noisy ones

    def __init__(self, config: Config, data: DataConfig, dtype: torch.dtype) -> None:
        if data.resolution != RESOLUTION:
            raise InputError(f"data.resolution: the prior 'toys' works at {RESOLUTION} pixels, got {data.resolution}")
        images = counts(data.rig)[0] + self.extra_views + 1
        check_range("task.rays", config.rays, 1, images * RESOLUTION**2)
        self.config = config
        self.network = ToysNetwork(config.size)
        self.network.dtype = dtype

    def load(self, weights: str) -> None:
        """See `PriorTask.load`."""
        opened = open_weights(weights)
        if not ToysPrior.recognizes(opened):
            raise InputError(f"{opened.path}: these are not weights of the prior 'toys'")
        size = ToysPrior.read_size(opened)
        if size != self.config.size:
            raise InputError(f"{opened.path}: of another size than task.size; that of the file is {size}")
        load_module(self.network, opened, {}, torch.float32, torch.device("cpu"))
        self.network.requires_grad_(True).train()

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; the last view is not fed to the network, only asked of it."""
        rows = [self._prepare_one(sample, generator) for sample in samples]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _prepare_one(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        images = _pixels(sample.images)
        return {
            "prompt": _pixels(sample.prompt),
            "prompt_projection": projections(sample.rig.prompt)[0],
            "projections": projections(sample.rig.views[:-1]),
            **self._noisy(images[:-1], generator),
            **self._occupancy(sample),
            **self._rays(sample, images, generator),
        }

    def _noisy(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The views at a random noise level, and what the network is allowed to see."""
        config = self.config
        draws = torch.rand(3, generator=generator)
        log_sigma = config.log_sigma[0] + config.log_sigma[1] * torch.randn((), generator=generator)
        sigma = log_sigma.exp().clamp(0.02, SIGMA_MAX)
        has_views = draws[2] >= config.drop_views
        sigma = torch.where((draws[0] < config.top_share) | ~has_views, SIGMA_MAX, sigma)
        views = images + sigma * torch.randn(images.shape, generator=generator)
        return {"views": views, "sigma": sigma, "has_image": draws[1] >= config.drop_image, "has_views": has_views}

    def _occupancy(self, sample: Sample) -> dict[str, Tensor]:
        """Which vertices of the grid are inside the object, where its shape is known."""
        if sample.solid is None:
            return {}
        line = torch.linspace(-self.config.size.half_side, self.config.size.half_side, self.config.size.grid)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        inside = sample.solid.contains(torch.stack([x, y, z], dim=-1).view(-1, 3))
        return {"occupancy": inside.view(z.shape)}

    def _rays(self, sample: Sample, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rays of the views and of the prompt, most of them near the object, with their pixels [R, 4]."""
        cameras = concatenate([sample.rig.views, sample.rig.prompt])
        pixels = torch.cat([images, _pixels(sample.prompt)[None]])
        near = F.max_pool2d(pixels[:, 3:], 7, stride=1, padding=3).flatten() > -1
        share = near.float().mean().clamp(1e-3, 1)
        weights = torch.where(near, self.config.object_share / share, 1 - self.config.object_share)
        chosen = torch.multinomial(weights, self.config.rays, generator=generator)
        origins, directions = (rays.reshape(-1, 3)[chosen] for rays in cameras.rays())
        jitter = torch.rand(self.config.rays, ToysPrior.samples, generator=generator)
        target = pixels.permute(0, 2, 3, 1).reshape(-1, 4)[chosen]
        return {"origins": origins, "directions": directions, "jitter": jitter, "target": target}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared errors of the rays' colour and opacity, weighted by the noise level; the grid's occupancy."""
        b, network, config = batch, cast(ToysNetwork, self.network), self.config
        picture = network.look(b["prompt"], b["prompt_projection"])
        lifted = network.lift(picture, *(b[name] for name in LIFTED))
        pixels = network.render(lifted, b["origins"], b["directions"], ToysPrior.samples, b["jitter"])
        weight = (1 + 0.5 / b["sigma"].square()).clamp_max(8)
        error = (pixels - b["target"]).square().mean(1) * weight[:, None]
        losses = {"color": error[:, :3].mean(), "mask": config.lambda_mask * error[:, 3].mean()}
        if "occupancy" in b:
            inside = F.binary_cross_entropy_with_logits(lifted.occupancy, b["occupancy"].float())
            losses["occupancy"] = config.lambda_occupancy * inside
        return losses

    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """PSNR of single evaluations per noise level, of samples, and silhouette IoU; a sheet of samples over truth."""
        prior = ToysPrior.around(cast(ToysNetwork, network))
        return evaluate(prior, samples, Protocol(LEVELS, karras_sigmas(*SHEET_SIGMAS)), prior.device)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`."""
        half = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(half, temporary, ToysPrior.describe(self.config.size))


def _check_size(size: Size) -> None:
    """Raise an InputError for a network that cannot be built."""
    check_range("size.half_side", size.half_side, 0.1)
    for name in ("middle", "color_features", "embedding"):
        check_range(f"size.{name}", getattr(size, name), 1)
    for name in ("down", "up"):
        check_range(f"size.{name}", min(getattr(size, name)), 0)
    for name, values, factor in (
        ("grid", [size.grid], 4),
        ("widths", size.widths[:2], 8),
        ("widths[2]", [size.widths[2]], HEAD_WIDTH),
        ("image_widths", size.image_widths, 8),
        ("view_width", [size.view_width], 8),
    ):
        check_multiples(f"size.{name}", values, factor)


def _pixels(images: Tensor) -> Tensor:
    """[..., 4, R, R] in [-1, 1] of [..., R, R, 4] in [0, 1]."""
    return 2 * images.movedim(-1, -3) - 1
