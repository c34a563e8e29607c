"""How the bundled prior of real objects is trained."""

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
from liftstudio.priors.objects.frustum import centers, frame_of, pixel_rays
from liftstudio.priors.objects.network import Lifted, ObjectsNetwork, Pose, Size, zoom
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.projections import projections
from liftstudio.priors.samplers import karras_sigmas
from liftstudio.priors.training.data import DataConfig, Sample
from liftstudio.priors.training.evaluation import Protocol, evaluate
from liftstudio.priors.training.rigs import counts
from liftstudio.priors.training.task import Evaluation, PriorTask
from liftstudio.priors.volume_prior import RESOLUTION, SIGMA_MAX
from liftstudio.priors.weights import load_module, open_weights
from liftstudio.registry import register

LEVELS = (SIGMA_MAX, 1.0)  # noise levels that are measured
SHEET_SIGMAS = (2, 0.1, SIGMA_MAX)  # steps, least and highest noise level of the sampler, for the sheets
LIFTED = ("views", "projections", "sigma", "has_image", "has_views")  # parts of a batch


@register("objects")
class ObjectsTask(PriorTask):
    """The denoiser that fills the picture's frustum, on its occupancy and on rays of its renderings."""

    @dataclass
    class Config:
        size: Size = field(default_factory=Size)  # of the network
        rays: int = 768  # per object and step
        object_share: float = 0.7  # of the rays, near the object
        drop_image: float = 0.05  # share of objects without picture
        drop_views: float = 0.1  # share of objects without noisy views
        drop_pose: float = 0.15  # share of objects whose picture's elevation and lens are to be guessed
        top_share: float = 0.7  # of objects at the highest noise level
        log_sigma: tuple[float, float] = (0.9, 1.6)  # mean and deviation of ln(sigma) of the others
        lambda_mask: float = 0.5  # weight of the opacity's error, beside that of the colour
        lambda_occupancy: float = 1.0  # weight of the cross entropy of the frustum's occupancy; captures have none
        lambda_pose: float = 0.01  # weight of the likelihood of the picture's elevation and lens

        def __post_init__(self) -> None:
            for name in ("drop_image", "drop_views", "drop_pose", "top_share"):
                check_range(name, getattr(self, name), 0, 1)
            check_range("object_share", self.object_share, 0.01, 0.99)  # at either end there may be too few pixels
            check_range("rays", self.rays, 1)
            for name in ("lambda_mask", "lambda_occupancy", "lambda_pose"):
                check_range(name, getattr(self, name), 0)
            _check_size(self.size)

    extra_views = 2  # that are not among the noisy ones

    def __init__(self, config: Config, data: DataConfig, dtype: torch.dtype) -> None:
        if data.resolution != RESOLUTION:
            raise InputError(f"data.resolution: 'objects' works at {RESOLUTION} pixels, got {data.resolution}")
        images = counts(data.rig)[0] + self.extra_views + 1
        check_range("task.rays", config.rays, 1, images * RESOLUTION**2)
        self.config = config
        self.network = ObjectsNetwork(config.size)
        self.network.dtype = dtype

    def load(self, weights: str) -> None:
        """See `PriorTask.load`."""
        opened = open_weights(weights)
        if not ObjectsPrior.recognizes(opened):
            raise InputError(f"{opened.path}: these are not weights of the prior 'objects'")
        size = ObjectsPrior.read_size(opened)
        if size != self.config.size:
            raise InputError(f"{opened.path}: of another size than task.size; that of the file is {size}")
        load_module(self.network, opened, {}, torch.float32, torch.device("cpu"))
        self.network.requires_grad_(True).train()

    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """See `PriorTask.prepare`; the last views are not fed to the network, only asked of it."""
        rows = [self._prepare_one(sample, generator) for sample in samples]
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def _prepare_one(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        images = _pixels(sample.images)
        noisy = len(images) - self.extra_views
        return {
            "prompt": _pixels(sample.prompt),
            "prompt_projection": projections(sample.rig.prompt)[0],
            "elevation": sample.rig.prompt.elevation_deg[0].deg2rad(),
            "projections": projections(sample.rig.views[:noisy]),
            **self._noisy(images[:noisy], generator),
            **self._occupancy(sample),
            **self._rays(sample, images, generator),
        }

    def _noisy(self, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The views at a random noise level, and what the network is allowed to see."""
        config = self.config
        draws = torch.rand(4, generator=generator)
        log_sigma = config.log_sigma[0] + config.log_sigma[1] * torch.randn((), generator=generator)
        sigma = log_sigma.exp().clamp(0.02, SIGMA_MAX)
        has_views = draws[2] >= config.drop_views
        sigma = torch.where((draws[0] < config.top_share) | ~has_views, SIGMA_MAX, sigma)
        views = images + sigma * torch.randn(images.shape, generator=generator)
        shown = {"has_image": draws[1] >= config.drop_image, "is_posed": draws[3] >= config.drop_pose}
        return {"views": views, "sigma": sigma, "has_views": has_views, **shown}

    def _occupancy(self, sample: Sample) -> dict[str, Tensor]:
        """Which cells of the frustum are inside the object, where its shape is known; none far from its silhouette."""
        if sample.solid is None:
            return {}
        frame, planes = frame_of(projections(sample.rig.prompt)), self.config.size.planes
        near = _near_object(_pixels(sample.prompt)[None])[0, 0]
        middle, way = (rays[0, near] for rays in pixel_rays(frame, RESOLUTION, RESOLUTION))
        cells = middle + centers(planes)[:, None, None] * way
        inside = torch.zeros(planes, RESOLUTION, RESOLUTION, dtype=torch.bool)
        inside[:, near] = sample.solid.contains(cells.view(-1, 3)).view(planes, -1)
        return {"inside": inside}

    def _rays(self, sample: Sample, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Rays of the views and of the picture, most of them near the object, with their pixels [N, 4]."""
        cameras = concatenate([sample.rig.views, sample.rig.prompt])
        pixels = torch.cat([images, _pixels(sample.prompt)[None]])
        near = F.max_pool2d(pixels[:, 3:], 7, stride=1, padding=3).flatten() > -1
        share = near.float().mean().clamp(1e-3, 1)
        weights = torch.where(near, self.config.object_share / share, 1 - self.config.object_share)
        chosen = torch.multinomial(weights, self.config.rays, generator=generator)
        origins, directions = (rays.reshape(-1, 3)[chosen] for rays in cameras.rays())
        jitter = torch.rand(self.config.rays, ObjectsPrior.samples, generator=generator)
        target = pixels.permute(0, 2, 3, 1).reshape(-1, 4)[chosen]
        return {"origins": origins, "directions": directions, "jitter": jitter, "target": target}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Squared errors of the rays' colour and opacity, weighted by the noise level; occupancy; the camera's pose."""
        b, network, config = batch, cast(ObjectsNetwork, self.network), self.config
        picture = network.look(b["prompt"], b["prompt_projection"], b["is_posed"])
        lifted = network.lift(picture, *(b[name] for name in LIFTED))
        pixels = network.render(lifted, b["origins"], b["directions"], ObjectsPrior.samples, b["jitter"])
        weight = (1 + 0.5 / b["sigma"].square()).clamp_max(2)
        error = (pixels - b["target"]).square().mean(1) * weight[:, None]
        losses = {"color": error[:, :3].mean(), "mask": config.lambda_mask * error[:, 3].mean()}
        if "inside" in b:
            losses["occupancy"] = config.lambda_occupancy * _occupancy_loss(lifted, b["inside"], b["prompt"])
        losses["pose"] = config.lambda_pose * _pose_loss(lifted.pose, b)
        return losses

    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """PSNR and silhouette IoU of single evaluations per noise level, and of samples; a sheet of samples."""
        prior = ObjectsPrior.around(cast(ObjectsNetwork, network))
        return evaluate(prior, samples, Protocol(LEVELS, karras_sigmas(*SHEET_SIGMAS)), prior.device)

    def save(self, network: nn.Module, path: Path) -> None:
        """See `PriorTask.save`."""
        half = {key: value.detach().cpu().half().contiguous() for key, value in network.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(half, temporary, ObjectsPrior.describe(self.config.size))


def _check_size(size: Size) -> None:
    """Raise an InputError for a network that cannot be built."""
    leasts = {"planes": 2, "color_planes": 2, "view_planes": 1, "full": 1, "middle": 1, "embedding": 1}
    for name, least in leasts.items():
        check_range(f"size.{name}", getattr(size, name), least)
    for name in ("down", "up"):
        check_range(f"size.{name}", min(getattr(size, name)), 0)
    for name, values, factor in (
        ("head", [size.head], 8),
        ("widths", size.widths[:2], 8),
        ("widths[2]", [size.widths[2]], HEAD_WIDTH),
    ):
        check_multiples(f"size.{name}", values, factor)


def _occupancy_loss(lifted: Lifted, inside: Tensor, prompt: Tensor) -> Tensor:
    """Mean cross entropy over the cells on the rays of the object and just beside it."""
    near = _near_object(prompt)
    entropy = F.binary_cross_entropy_with_logits(lifted.occupancy, inside.float(), reduction="none")
    return (entropy.mean(1, keepdim=True) * near).sum() / near.sum().clamp_min(1)


def _near_object(images: Tensor) -> Tensor:
    """[B, 1, R, R] bool: pixels that show the object, and those just beside it, of images [B, 4, R, R]."""
    return F.max_pool2d(images[:, 3:], 5, stride=1, padding=2) > -1


def _pose_loss(pose: Pose, batch: dict[str, Tensor]) -> Tensor:
    """Negative log-likelihood of elevation and lens, of the pictures where these are to be guessed.

    Errors count as Laplace's distribution has them: one bad guess must not outweigh all else that is learned.
    """
    guessed = (~batch["is_posed"] & batch["has_image"]).float()
    elevation = (pose.elevation - batch["elevation"]).abs()
    lens = (pose.zoom - zoom(batch["prompt_projection"])).abs()
    surprise = elevation / pose.elevation_log_error.exp() + pose.elevation_log_error
    surprise = surprise + lens / pose.zoom_log_error.exp() + pose.zoom_log_error
    return (surprise * guessed).sum() / guessed.sum().clamp_min(1)


def _pixels(images: Tensor) -> Tensor:
    """[..., 4, R, R] in [-1, 1] of [..., R, R, 4] in [0, 1]."""
    return 2 * images.movedim(-1, -3) - 1
