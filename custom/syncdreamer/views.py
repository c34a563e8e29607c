"""SyncDreamer's views: sixteen cameras of one elevation around the object, and the input picture."""

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
from liftstudio.data.orbits import Angles
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

PictureElevationDeg = Annotated[float, Range(-10, 40)]  # as SyncDreamer and the bundled prior were trained on
CELL = 96  # pixels across a view in the picture of all instances


@register("syncdreamer-views")
class SyncDreamerViews(PriorViews):
    """Sixteen views around the object in a picture, sampled as SyncDreamer does, with its guidance or HarmonyView's.

    After Liu et al. 2023, "SyncDreamer", and Woo et al. 2024, "HarmonyView": ancestral steps from several starts
    (instances), of which one is chosen. Views are 360 / `count` degrees apart, the first at the picture's azimuth,
    all from 30 degrees above. The picture, which has its own elevation, is one view more; at 30 degrees it takes the
    place of the first.
    """

    @dataclass
    class Config(PriorViews.Config):
        elevation_deg: PictureElevationDeg = 30.0  # of the camera that took the picture, degrees above its horizon
        frame_ratio: FrameRatio = 200 / 256  # share of the frame that the longer side of the object's box takes
        distance: Distance = rig.DISTANCE * 2 * HALF_SIDE  # of the cameras from the object's centre, world units
        fov_deg: FovDeg = 2 * math.degrees(math.atan(0.5 / rig.FOCAL_LENGTH))  # field of view of the cameras
        count: Annotated[int, Range(2)] = 16  # views around the object; SyncDreamer's own weights know 16 only
        guidance: Literal["cfg", "harmonyview"] = "cfg"  # classifier-free, or HarmonyView's decomposed one
        guidance_scale: GuidanceScale = 0.0  # of cfg, u + s (c - u); 0: what suits the prior
        harmony_scales: tuple[NonNegativeFloat, NonNegativeFloat] | None = None  # s1, s2; none: what suits the prior
        instances: PositiveInt = 4  # sets of views that are sampled
        instance: NonNegativeInt | Literal["best"] = "best"  # set that is used; best: by the silhouettes' agreement

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.guidance == "cfg" and self.harmony_scales is not None:
                raise InputError("harmony_scales: for guidance: harmonyview alone; here it is cfg, with guidance_scale")
            if self.guidance == "harmonyview" and self.guidance_scale != 0:
                raise InputError("guidance_scale: for guidance: cfg alone; here it is harmonyview, with harmony_scales")
            if self.instance != "best":
                check_range("instance", self.instance, 0, self.instances - 1)

    config: Config
    not_deciding: ClassVar[frozenset[str]] = PriorViews.not_deciding | {"instance"}

    def angles(self) -> Angles:
        """Azimuths from 0, all at 30 degrees of elevation."""
        azimuth_deg = 360 / self.config.count * torch.arange(self.config.count)
        return azimuth_deg, torch.full_like(azimuth_deg, rig.ELEVATION_DEG)

    def conditioning_image(self, picture: InputImage, resolution: int) -> tuple[Tensor, Tensor]:
        """As the official script frames it, by the box of the object as everywhere: what is faint does not count."""
        rgba = torch.cat([picture.rgb, picture.alpha], dim=-1)
        if not self.config.recenter:
            return framed(rgba, resolution, 0)
        box = bounding_box(picture.alpha)
        assert box is not None
        left, top, right, bottom = box
        return framed(rgba[top:bottom, left:right], resolution, int(self.config.frame_ratio * resolution))

    def suited_steps(self, prior: Prior) -> int:
        """Of ancestral sampling."""
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
        """All instances [instances * T, ...], one after the other; none depends on how many there are."""
        condition = prior.condition(posed)
        config, device = self.config, cameras.device
        scales = self.guidance_scales(prior, len(cameras)).to(device)
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
        """The chosen instance, with a picture of all of them.

        `instance: best` is the one whose silhouettes agree best with one another and with the picture's: see
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
    """Unit noise [instances, *shape] without end; each instance has a generator of its own."""
    seeds = (int(torch.randint(2**62, (), generator=generator)) for _ in range(instances))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=one) for one in generators]).to(device)


def _sheet(instances: Sequence[Tensor], labels: Sequence[str]) -> Tensor:
    """[H, W, 3] picture: a row for each instance's images [T, R, R, 3], with its label."""
    rows = [[resize_area(image, CELL, CELL) for image in images] for images in instances]
    return grid(rows, [[label, *[""] * (len(row) - 1)] for label, row in zip(labels, rows, strict=True)])


def _all_empty(ranks: Sequence[Rank], chosen: int, instances: Sequence[Tensor]) -> str:
    """What to do about it, and where a picture is of the images as they were made: the run has no folder yet."""
    path, others = cache_folder() / "views" / "instances.png", [n for n, one in enumerate(ranks) if one.used]
    which, advice = "all instances", "another views.seed, or another views.elevation_deg"
    if others:
        which, advice = f"instance {chosen}", f"another views.instance, for example {others[0]}, or another views.seed"
    with contextlib.suppress(OSError):
        save_image(path, _sheet(instances, list(map(str, range(len(ranks))))))
        which += f" ({path})"
    return f"views: all generated views of {which} are empty; try {advice}"
