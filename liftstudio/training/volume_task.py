"""How the bundled priors with a volume inside are trained: on rays of its renderings, and on what is inside."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path
from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, Range, UnitFloat
from liftstudio.core.weights import load_module, open_weights
from liftstudio.data.cameras import concatenate
from liftstudio.priors.projections import projections
from liftstudio.priors.samplers import karras_sigmas
from liftstudio.priors.volume_prior import RESOLUTION, SIGMA_MAX, VolumePrior
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.evaluation import Protocol, evaluate
from liftstudio.training.rigs import counts
from liftstudio.training.task import Evaluation, PriorTask

LEVELS = (SIGMA_MAX, 5.0, 1.0)  # noise levels that are measured
LIFTED = ("views", "projections", "sigma", "has_image", "has_views")  # entries of a batch, in the order of `lift`

ObjectShare = Annotated[float, Range(0.01, 0.99)]  # at either end there may be too few pixels


class VolumeTask(PriorTask):
    """The training of a `VolumePrior`; a task of its own says what of the object its network is taught directly."""

    @dataclass
    class Config:
        rays: PositiveInt = 1536  # per object and step
        object_share: ObjectShare = 0.7  # of the rays, near the object
        drop_image: UnitFloat = 0.08  # share of objects without picture
        drop_views: UnitFloat = 0.08  # share of objects without noisy views
        top_share: UnitFloat = 0.25  # of objects at the highest noise level
        log_sigma: tuple[float, float] = (0.9, 1.6)  # mean and deviation of ln(sigma) of the others
        lambda_mask: NonNegativeFloat = 0.5  # weight of the opacity's error, beside that of the colour
        lambda_occupancy: NonNegativeFloat = 0.5  # weight of the volume occupancy's cross entropy; captures have none

    prior_type: ClassVar[type[VolumePrior]]
    sheet_steps: ClassVar[int]  # of the sampler, for the sheets
    most_weight: ClassVar[float]  # of an object's rays at low noise, 1 being that at the highest
    config: Any
    network: Any

    def __init__(self, config: Any, data: DataConfig, dtype: torch.dtype) -> None:
        if data.resolution != RESOLUTION:
            prior = f"the prior '{self.prior_type.note}'"
            raise InputError(f"data.resolution: {prior} works at {RESOLUTION} pixels, got {data.resolution}")
        images = counts(data.rig)[0] + self.extra_views + 1
        check_range("task.rays", config.rays, 1, images * RESOLUTION**2)
        self.config = config
        self.network = self.prior_type.network_type(config.size)
        self.network.dtype = dtype

    def load(self, weights: str) -> None:
        """See `PriorTask.load`."""
        opened = open_weights(weights)
        if not self.prior_type.recognizes(opened):
            raise InputError(f"{opened.path}: these are not weights of the prior '{self.prior_type.note}'")
        size = self.prior_type.read_size(opened)
        if size != self.config.size:
            raise InputError(f"{opened.path}: of another size than task.size; that of the file is {size}")
        load_module(self.network, opened, {}, torch.float32, torch.device("cpu"))
        self.network.requires_grad_(True).train()

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; the extra views are not fed to the network, only asked of it."""
        rows = [self._prepare_one(sample, generator) for sample in samples]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _prepare_one(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        images = channels_first(sample.images)
        noisy = len(images) - self.extra_views
        return {
            "input_image": channels_first(sample.input_image),
            "input_projection": projections(sample.rig.input_camera)[0],
            "projections": projections(sample.rig.views[:noisy]),
            **self._noisy(images[:noisy], generator),
            **self._shape(sample, generator),
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

    @abstractmethod
    def _shape(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Further targets: "inside" (bool) where the shape is known, and what else the network is taught."""

    def _rays(self, sample: Sample, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rays of the views and of the picture, most of them near the object, with their pixels [N, 4]."""
        cameras = concatenate([sample.rig.views, sample.rig.input_camera])
        pixels = torch.cat([images, channels_first(sample.input_image)[None]])
        near = F.max_pool2d(pixels[:, 3:], 7, stride=1, padding=3).flatten() > -1
        share = near.float().mean().clamp(1e-3, 1)
        weights = torch.where(near, self.config.object_share / share, 1 - self.config.object_share)
        chosen = torch.multinomial(weights, self.config.rays, generator=generator)
        origins, directions = (rays.reshape(-1, 3)[chosen] for rays in cameras.rays())
        jitter = torch.rand(self.config.rays, self.prior_type.samples, generator=generator)
        target = pixels.permute(0, 2, 3, 1).reshape(-1, 4)[chosen]
        return {"origins": origins, "directions": directions, "jitter": jitter, "target": target}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared errors of the rays' colour and opacity, weighted by the noise level, and those of `_shape_losses`."""
        b, network = batch, self.network
        lifted = network.lift(self._look(b), *(b[name] for name in LIFTED))
        pixels = network.render(lifted, b["origins"], b["directions"], self.prior_type.samples, b["jitter"])
        weight = (1 + 0.5 / b["sigma"].square()).clamp_max(self.most_weight)
        error = (pixels - b["target"]).square().mean(1) * weight[:, None]
        rendered = {"color": error[:, :3].mean(), "mask": self.config.lambda_mask * error[:, 3].mean()}
        return rendered | self._shape_losses(lifted, b)

    def _look(self, batch: dict[str, Tensor]) -> Any:
        """The input picture as `lift` takes it."""
        return self.network.look(batch["input_image"], batch["input_projection"])

    @abstractmethod
    def _shape_losses(self, lifted: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Errors of what `_shape` teaches, weighted."""

    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """PSNR and silhouette IoU of single evaluations per noise level, and of samples; a sheet of samples."""
        prior = self.prior_type.around(network)
        sigmas = karras_sigmas(self.sheet_steps, 0.1, SIGMA_MAX)
        return evaluate(prior, samples, Protocol(LEVELS, sigmas), prior.device)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`."""
        half = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(half, temporary, self.prior_type.describe(self.config.size))


def channels_first(images: Tensor) -> Tensor:
    """[..., 4, R, R] in [-1, 1] of [..., R, R, 4] in [0, 1]."""
    return 2 * images.movedim(-1, -3) - 1
