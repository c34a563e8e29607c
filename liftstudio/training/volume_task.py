"""Training of the bundled priors with an internal volume, by losses on rendered rays and on the shape."""

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

LEVELS = (SIGMA_MAX, 5.0, 1.0)  # noise levels of the evaluation
LIFTED = ("views", "projections", "sigma", "has_image", "has_views")  # entries of a batch, in the order of `lift`

ObjectShare = Annotated[float, Range(0.01, 0.99)]  # closer to 0 or 1, there may be too few pixels to draw from


class VolumeTask(PriorTask):
    """Training of a `VolumePrior`; subclasses add direct supervision of the object's shape."""

    @dataclass
    class Config:
        rays: PositiveInt = 1536  # per object and step
        object_share: ObjectShare = 0.7  # share of rays near the object
        drop_image: UnitFloat = 0.08  # share of objects without input image
        drop_views: UnitFloat = 0.08  # share of objects without noisy views
        top_share: UnitFloat = 0.25  # share of objects at the highest noise level
        log_sigma: tuple[float, float] = (0.9, 1.6)  # mean and standard deviation of ln(sigma) of the others
        lambda_mask: NonNegativeFloat = 0.5  # weight of the opacity error, relative to the colour error
        lambda_occupancy: NonNegativeFloat = 0.5  # weight of the occupancy cross entropy; not for captures

    prior_type: ClassVar[type[VolumePrior]]
    sheet_steps: ClassVar[int]  # sampler steps for the contact sheets
    most_weight: ClassVar[float]  # maximum weight of an object's rays, reached at low noise; 1 at the highest noise
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
            raise InputError(f"{opened.path}: not weights of the prior '{self.prior_type.note}'")
        size = self.prior_type.read_size(opened)
        if size != self.config.size:
            raise InputError(f"{opened.path}: the network size is not that of task.size; the file has {size}")
        load_module(self.network, opened, {}, torch.float32, torch.device("cpu"))
        self.network.requires_grad_(True).train()

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; the extra views are targets only, not inputs of the network."""
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
        """Return the views at a random noise level, and which inputs the network is given."""
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
        """Return further targets: "inside" (bool) if the shape is known, and others of the task."""

    def _rays(self, sample: Sample, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw rays of the views and the input view, most of them near the object, with their pixels [N, 4]."""
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
        """Return squared errors of ray colour and opacity, weighted by noise level, and the `_shape_losses`."""
        b, network = batch, self.network
        picture = network.look(b["input_image"], b["input_projection"])
        lifted = network.lift(picture, *(b[name] for name in LIFTED))
        pixels = network.render(lifted, b["origins"], b["directions"], self.prior_type.samples, b["jitter"])
        weight = (1 + 0.5 / b["sigma"].square()).clamp_max(self.most_weight)
        error = (pixels - b["target"]).square().mean(1) * weight[:, None]
        rendered = {"color": error[:, :3].mean(), "mask": self.config.lambda_mask * error[:, 3].mean()}
        return rendered | self._shape_losses(lifted, b)

    @abstractmethod
    def _shape_losses(self, lifted: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weighted losses on the targets of `_shape`."""

    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Return PSNR and IoU of single-step estimates per noise level and of samples, and a contact sheet."""
        prior = self.prior_type.around(network)
        sigmas = karras_sigmas(self.sheet_steps, 0.1, SIGMA_MAX)
        return evaluate(prior, samples, Protocol(LEVELS, sigmas), prior.device)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`."""
        half = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(half, temporary, self.prior_type.describe(self.config.size))


def channels_first(images: Tensor) -> Tensor:
    """Convert images [..., R, R, 4] in [0, 1] to [..., 4, R, R] in [-1, 1]."""
    return 2 * images.movedim(-1, -3) - 1
