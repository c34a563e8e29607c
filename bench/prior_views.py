"""What a config's prior makes of one picture at the cameras of a capture, asked directly: no run, no mesh."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bench.captures import Subject
from bench.runs import Pictures, Row
from bench.timing import timed
from liftstudio.core.config import ComponentSpec
from liftstudio.core.logs import WorkProgress
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area, resize_lanczos
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.novel_views import PIXELS, Judges, around, closeness, compare_views
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import open_prior
from liftstudio.run.truth import resized
from liftstudio.views.prior_views import PriorViews, silhouette

SMALL_PIXELS = 64  # across the views in which small priors are compared, beside PIXELS


@dataclass(frozen=True)
class Asked:
    """A prior that was shown the input view, with the cameras of all views.

    order: [V] the capture's views as the prior is asked for them: azimuths rise, and the input view is first or last,
        as in what the config's own source asks for. cameras: in that order, of the prior's resolution.
    """

    source: PriorViews
    prior: Prior
    posed: PosedImage
    order: Tensor
    cameras: Cameras

    def estimators(self) -> dict[str, Callable[[], Tensor]]:
        """Name in the table -> what makes latents [V, ...], or of K instances [K V, ...], in the prior's order."""
        prior, condition = self.prior, self.prior.condition(self.posed)

        def once() -> Tensor:
            noise = torch.randn(len(self.cameras), *prior.latent_shape, generator=self._generator())
            noisy = prior.sigma_max * noise.to(self.source.device)
            return prior.denoise(NoisyViews(noisy, prior.sigma_max, condition, self.cameras))

        return {"one evaluation": once, "sampled": self.sample}

    def sample(self) -> Tensor:
        """As the config's source samples; shows its progress."""
        steps = self.source.config.steps or self.source.suited_steps(self.prior)
        sigmas = self.prior.sigmas(steps)
        text = f"{len(self.cameras)} by {self.prior.name}, {steps} steps"
        with WorkProgress("views") as progress:

            def show(step: int, latents: Tensor) -> None:
                progress(text, (step + 1) / steps)

            progress(text, 0.0)
            return self.source.sample(self.prior, self.posed, self.cameras, sigmas, self._generator(), show)

    def decoded(self, latents: Tensor) -> list[Pictures]:
        """Images and masks of every instance, in the capture's order, on the CPU."""
        images, masks = self.prior.decode(latents)
        images = images.cpu()
        matting = self.source.config.matting
        masks = torch.stack([silhouette(image, matting) for image in images]) if masks is None else masks.cpu()
        back = self.order.argsort()
        count = len(self.order)
        return [(one[back], mask[back]) for one, mask in zip(images.split(count), masks.split(count), strict=True)]

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.source.config.seed)


def ask(views: ComponentSpec, subject: Subject, device: torch.device) -> Asked:
    """Show the prior of a config's views the subject's picture, which that config names.

    Raises:
        InputError: missing or faulty weights, or cameras that the prior cannot be asked about.
    """
    source: PriorViews = views.build(device=device)
    prior = open_prior(source.config.prior, device)
    picture = source.input_image()
    assert picture is not None
    posed = source.posed_image(picture, prior.resolution)
    order = around(subject.views)
    azimuth_deg, _ = source.angles()
    if float(azimuth_deg[0]) % 360 != 0:
        order = order.roll(-1)
    own = subject.views.cameras.resized(prior.resolution, prior.resolution)
    assert subject.views.input_view is not None
    c2w = own.c2w.clone()
    c2w[subject.views.input_view] = posed.camera.c2w[0].cpu()  # the same but for rounding, or as it was estimated
    cameras = replace(own, c2w=c2w)[order].to(device)
    prior.check_cameras(posed.camera, cameras)
    return Asked(source, prior, posed, order, cameras)


@torch.no_grad()
def measure_prior(asked: Asked, subject: Subject, judges: Judges) -> tuple[list[Row], dict[str, Pictures]]:
    """Rows of each estimator, at the prior's resolution and at PIXELS, and the pictures of its first instance."""
    rows, pictures = [], {}
    for name, estimate in asked.estimators().items():
        latents, seconds = timed(estimate)
        instances = asked.decoded(latents)
        pictures[name] = instances[0]
        for row in measured(instances, subject.views, judges):
            rows.append({"row": name, **row, "views_s": seconds})
    return rows, pictures


def measured(instances: list[Pictures], truth: ReferenceViews, judges: Judges, *, small: bool = False) -> list[Row]:
    """Means over instances of pictures at all cameras of a capture: as small as they are, and at PIXELS by all judges.

    small: also measure large pictures at SMALL_PIXELS, beside priors of that size.
    """
    full = min(PIXELS, truth.cameras.width)
    own = min(instances[0][0].shape[1], SMALL_PIXELS if small else full)
    rows = list[Row]()
    for size in dict.fromkeys((own, full)):
        true = resized(truth, size)
        fitted = [(fit(images, size), fit(masks, size)) for images, masks in instances]
        compare = closeness if size < full else partial(compare_views, judges=judges)
        rows.append({"pixels": size, **mean_of([compare(*one, true) for one in fitted])})
    rows[-1]["contextual_by"] = judges.features.name
    return rows


def fit(frames: Tensor, size: int) -> Tensor:
    """[V, size, size, C] images [V, R, R, C] in [0, 1]: reduced by areas, or enlarged as a run does it."""
    if frames.shape[1] >= size:
        return torch.stack([resize_area(frame, size, size) for frame in frames])
    return torch.stack([resize_lanczos(frame, size, size).clamp(0, 1) for frame in frames])


def mean_of(rows: list[Row]) -> Row:
    """The mean of each measure."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
