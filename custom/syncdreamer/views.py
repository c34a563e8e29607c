"""SyncDreamer's views: sixteen cameras of one elevation around the object, and the input image."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from liftstudio.core.cache import cache_folder
from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras, Distance, FovDeg
from liftstudio.data.images import grid, resize_area, save_image
from liftstudio.data.orbits import Angles, ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import GuidanceScale
from liftstudio.priors.samplers import ancestral
from liftstudio.views.input_image import InputImage
from liftstudio.views.normalization import HALF_SIDE
from liftstudio.views.prior_views import FrameRatio, OnStep, PriorViews
from liftstudio.views.silhouettes import bounding_box

from . import rig
from .denoising import decomposed
from .preparation import framed
from .ranking import Rank, rank

ELEVATIONS_DEG = (-10.0, 40.0)  # of input images that SyncDreamer and the bundled prior were trained on
PictureElevationDeg = Annotated[float, Range(*ELEVATIONS_DEG)]
CELL = 96  # pixels across a view in the image of all instances


@register("syncdreamer-views")
class SyncDreamerViews(PriorViews):
    """Sixteen views around the object in an input image, sampled as in SyncDreamer, with its guidance or HarmonyView's.

    After Liu et al. 2023, "SyncDreamer", and Woo et al. 2024, "HarmonyView": ancestral sampling from several starts
    (instances), of which one is chosen. Views are 360 / `count` degrees apart, the first at the input image's azimuth,
    all at one elevation. The input image, which has its own elevation, is an additional view; at that of the views it
    replaces the first.
    """

    @dataclass
    class Config(PriorViews.Config):
        elevation_deg: PictureElevationDeg | Literal["auto"] = "auto"  # of the input image's camera; auto: estimated
        frame_ratio: FrameRatio = 200 / 256  # share of the frame that the object's longer side takes
        distance: Distance = rig.DISTANCE * 2 * HALF_SIDE  # of the cameras from the object's centre, world units
        fov_deg: FovDeg = 2 * math.degrees(math.atan(0.5 / rig.FOCAL_LENGTH))  # field of view of the cameras
        count: Annotated[int, Range(2)] = 16  # views around the object; SyncDreamer's own weights support 16 only
        target_elevation_deg: ElevationDeg = (
            rig.ELEVATION_DEG
        )  # of the views; SyncDreamer's own weights support 30 only
        guidance: Literal["cfg", "harmonyview"] = "cfg"  # classifier-free, or HarmonyView's decomposed one
        guidance_scale: GuidanceScale = 0.0  # s of cfg, u + s (c - u); 0: the prior's default
        harmony_scales: tuple[NonNegativeFloat, NonNegativeFloat] | None = None  # s1, s2; none: the prior's default
        instances: PositiveInt = 4  # number of sets of views to sample
        instance: NonNegativeInt | Literal["best"] = "best"  # the set to use; best: by the silhouettes' agreement

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.guidance == "cfg" and self.harmony_scales is not None:
                raise InputError("harmony_scales: only for guidance: harmonyview; cfg uses guidance_scale")
            if self.guidance == "harmonyview" and self.guidance_scale != 0:
                raise InputError("guidance_scale: only for guidance: cfg; harmonyview uses harmony_scales")
            if self.instance != "best":
                check_range("instance", self.instance, 0, self.instances - 1)

    config: Config
    not_deciding: ClassVar[frozenset[str]] = PriorViews.not_deciding | {"instance"}
    elevation_range_deg = ELEVATIONS_DEG

    def angles(self) -> Angles:
        """Return azimuths from 0, and elevations of `target_elevation_deg`."""
        azimuth_deg = 360 / self.config.count * torch.arange(self.config.count)
        return azimuth_deg, torch.full_like(azimuth_deg, self.config.target_elevation_deg)

    def conditioning_image(self, picture: InputImage, resolution: int) -> tuple[Tensor, Tensor]:
        """Frame the image as in the official script, but by the usual bounding box, which ignores faint pixels."""
        rgba = torch.cat([picture.rgb, picture.alpha], dim=-1)
        if not self.config.recenter:
            return framed(rgba, resolution, 0)
        box = bounding_box(picture.alpha)
        assert box is not None
        left, top, right, bottom = box
        return framed(rgba[top:bottom, left:right], resolution, int(self.config.frame_ratio * resolution))

    def suited_steps(self, prior: Prior) -> int:
        """Return the prior's default number of steps for ancestral sampling."""
        return prior.ancestral_steps or prior.steps

    def sample(
        self,
        prior: Prior,
        posed: PosedImage,
        cameras: Cameras,
        sigmas: Tensor,
        generator: torch.Generator,
        on_step: OnStep,
    ) -> Tensor:
        """Sample all instances, [instances * T, ...]; an instance does not depend on how many there are."""
        condition = prior.condition(posed)
        config, device = self.config, cameras.device
        scales = self.guidance_scales(prior, cameras).to(device)
        harmony_scales = config.harmony_scales or prior.decomposed_scales

        def denoise_one(latents: Tensor, sigma: float) -> Tensor:
            if config.guidance == "cfg":
                return prior.denoise(NoisyViews(latents, sigma, condition, cameras, scales))
            estimates = prior.denoise_separately(NoisyViews(latents, sigma, condition, cameras))
            return decomposed(*estimates, harmony_scales)

        def denoise(latents: Tensor, sigma: float) -> Tensor:
            return torch.stack([denoise_one(instance, sigma) for instance in latents])

        noises = _noises((len(cameras), *prior.latent_shape), config.instances, generator, device)
        return ancestral(denoise, noises, sigmas, on_step).flatten(0, 1)

    def assemble(self, images: Tensor, masks: Tensor, picture: InputImage) -> ReferenceViews:
        """Return the chosen instance, with an image of all instances.

        `instance: best` is the one whose silhouettes agree best with one another and with the input image's; see
        `ranking.rank`.

        Raises:
            InputError: all generated views of the chosen instance are empty.
        """
        sets = zip(images.split(self.config.count), masks.split(self.config.count), strict=True)
        assemble = super().assemble
        instances = [self.with_input_image(assemble(*one, picture), picture) for one in sets]
        if len(instances) == 1:
            return instances[0]
        ranks = [rank(views) for views in instances]
        best = max(range(len(ranks)), key=ranks.__getitem__)
        chosen = best if self.config.instance == "best" else self.config.instance
        if not ranks[chosen].used:
            raise InputError(_all_empty(ranks, chosen, images.split(self.config.count)))
        agreement = ", ".join(map(str, ranks))
        log.info("views: instance %d of %d is used; their silhouettes' agreement: %s", chosen, len(ranks), agreement)
        labels = [f"{n}: {one.score:.3f}{' used' if n == chosen else ''}" for n, one in enumerate(ranks)]
        return replace(instances[chosen], sheet=_sheet([views.over(1.0) for views in instances], labels))


def _noises(
    shape: tuple[int, ...], instances: int, generator: torch.Generator, device: torch.device
) -> Iterator[Tensor]:
    """Yield unit normal noise [instances, *shape] endlessly; each instance has its own generator."""
    seeds = (int(torch.randint(2**62, (), generator=generator)) for _ in range(instances))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=one) for one in generators]).to(device)


def _sheet(instances: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """Return an image [H, W, 3] with a labelled row for each instance's images [T, R, R, 3]."""
    rows = [[resize_area(image, CELL, CELL) for image in images] for images in instances]
    return grid(rows, [[label, *[""] * (len(row) - 1)] for label, row in zip(labels, rows, strict=True)])


def _all_empty(ranks: Sequence[Rank], chosen: int, instances: Sequence[Tensor]) -> str:
    """Return an error message with advice; saves an image of all instances in the cache: no run folder exists yet."""
    folder, others = cache_folder(), [n for n, one in enumerate(ranks) if one.used]
    which, advice = "all instances", "another views.seed, or another views.elevation_deg"
    if others:
        which, advice = f"instance {chosen}", f"another views.instance, for example {others[0]}, or another views.seed"
    if folder is not None:
        path = folder / "views" / "instances.png"
        with contextlib.suppress(OSError):
            save_image(path, _sheet(instances, list(map(str, range(len(ranks))))))
            which += f" ({path})"
    return f"views: all generated views of {which} are empty; try {advice}"
