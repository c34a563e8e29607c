"""Reference-guided novel view enhancement, RGNV (Yu et al. 2023, "HiFi-123", sec. 3.1), and its plug-in for views.

Views are inverted, then sampled anew with the attention of a reference, which was inverted likewise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from liftstudio.core.checks import check_range
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import WorkProgress
from liftstudio.core.ranges import NonNegativeInt, Range
from liftstudio.core.registry import register
from liftstudio.data.images import resize_lanczos
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.enhancement import ViewEnhancer

from .ddim import OnStep, Predict, TimestepGrid, invert, sample
from .depth import depth_channel, mask_channel
from .injection import LAST_QUARTER, KeysValues, injection
from .model import Prompts, inverting, with_cached_reference
from .monocular import DepthEstimator, estimator_fingerprint
from .prior import GREY, KIND, DepthPrior, bundled, warn_of_shrinking


@dataclass(frozen=True)
class Form:
    """How far views are inverted, and where they look at the reference; the defaults are those of the release.

    levels:         steps of inversion, and of sampling.
    injected:       how many of the last steps of sampling have the reference's attention.
    guidance_scale: of sampling; inversion is not guided.
    last_layers:    self-attentions that look at the reference, counted from the last; 0: the last quarter of all.
    """

    levels: int
    injected: int
    guidance_scale: float = 9.0
    last_layers: int = LAST_QUARTER

    def __post_init__(self) -> None:
        check_range("levels", self.levels, 2)
        check_range("injected", self.injected, 0, self.levels)
        check_range("guidance_scale", self.guidance_scale, 1)

    @classmethod
    def symmetric(cls, levels: int = 30, **options: Any) -> "Form":
        """The paper's simplified form: part of the way, with the reference's attention in all steps of sampling."""
        return cls(levels, levels, **options)

    @classmethod
    def full_range(cls, steps: int = 50, start_step: int = 4, **options: Any) -> "Form":
        """The release's form: all steps of the grid, with the reference's attention from the step `start_step` on."""
        return cls(steps, steps - start_step, **options)

    def reference_calls(self, *, stored: bool = True) -> int:
        """Calls of the network by `prepare_reference`; the first of the steps costs none."""
        sampled = self.injected if stored else self.levels
        return self.levels - 1 + max(0, sampled - 1)

    @property
    def view_calls(self) -> int:
        """Calls of the network by `enhance`, to the clean latents."""
        return 2 * (self.levels - 1)


@dataclass(frozen=True)
class Reference:
    """What enhancement needs of a reference view: made once, used for all views.

    states:      [levels + 1, 1, 4, h, w] of its inversion.
    keys_values: timestep -> layer -> keys and values, at the steps with its attention. At 64 x 64 latents of Stable
                 Diffusion 18 MB per step in half precision.
    """

    states: Tensor
    keys_values: dict[int, KeysValues]


def prepare_reference(
    unet: Any, latents: Tensor, depth: Tensor, empty: Tensor, grid: TimestepGrid, form: Form, *, stored: bool = True
) -> Reference:
    """Inversion of a reference, and its keys and values at all steps where views look at it.

    Args:
        latents: [1, 4, h, w] clean, float32.
        depth: [1, 1, h, w] in [-1, 1].
        empty: [1, tokens, D] embedded empty prompt.
        stored: the reference passes the states of its inversion again, and stays exact (the release's option
            `ref_intermediate_latents`); otherwise it is sampled from the last of them, and drifts.
    Raises:
        InputError: more levels than the grid has, or no self-attention at the asked layers.
    """
    plain = inverting(unet, depth, empty)
    with injection(unet, form.last_layers):
        pass  # a UNet without those layers is refused before the long work
    states = invert(plain, latents, grid, form.levels)
    keys_values: dict[int, KeysValues] = {}

    @torch.no_grad()
    def recorded(state: Tensor, timestep: int) -> Tensor:
        with injection(unet, form.last_layers) as found:  # of the reference itself: its result stays
            epsilon = plain(state, timestep)
        keys_values[timestep] = found
        return epsilon

    if stored:
        for step in reversed(range(1, form.injected)):
            recorded(states[step + 1], grid.timesteps[step])
    else:
        sample(recorded, sample(plain, states[-1], grid, form.levels, form.injected), grid, form.injected)
    return Reference(states, keys_values)


def enhance(
    unet: Any,
    latents: Tensor,
    depths: Tensor,
    prompts: Prompts,
    reference: Reference,
    grid: TimestepGrid,
    form: Form,
    on_step: OnStep | None = None,
    stop: int = 0,
) -> Tensor:
    """Enhanced latents [V, 4, h, w] of views: inverted, and sampled with the reference's attention.

    The same as `ddim.sample` by `model.beside_reference`, with the reference evaluated once for all views.

    Args:
        latents: [V, 4, h, w] clean, float32.
        depths: [V, 1, h, w] in [-1, 1], made as the reference's.
        reference: prepared with the same grid and form.
        on_step: told after each step of sampling.
        stop: the level where sampling ends, see `ddim.sample`; 0: the clean latents.
    """
    inverted = invert(inverting(unet, depths, prompts.empty), latents, grid, form.levels)[-1]
    predict = with_cached_reference(unet, depths, prompts, form.guidance_scale, reference.keys_values, form.last_layers)
    return sample(predict, inverted, grid, form.levels, stop, on_step)


def sample_with_exchange(
    predict: Predict,
    reference: Tensor,
    novel: Tensor,
    mask: Tensor,
    grid: TimestepGrid,
    level: int,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents [1 + V, 4, h, w] of the released script: the views begin as the reference and are put in on the way.

    All of them start as the inverted reference. At `level` the views take the place of what is inside the mask, and the
    background goes on as the reference's.

    Args:
        predict: as `model.beside_reference`.
        reference: [1, 4, h, w] inverted to the grid's last level.
        novel: [V, 4, h, w] inverted to `level`. The release, which stops inversion at `stop`, puts in states of level
            stop + 1 at level stop - 1; right are levels that agree.
        mask: [V, 1, h, w] in [0, 1], 1 where the object is.
    Raises:
        InputError: `level` is not in the grid.
    """
    both = torch.cat([reference, reference.expand_as(novel)])
    both = sample(predict, both, grid, grid.steps, level, on_step)
    mixed = mask * novel + (1 - mask) * both[1:]
    return sample(predict, torch.cat([both[:1], mixed]), grid, level, on_step=on_step)


@register("rgnv")
class RGNV(ViewEnhancer):
    """Gives generated views the texture of the picture they were made from, as HiFi-123 does.

    After Yu et al. 2023, "HiFi-123", sec. 3.1: the views are inverted by DDIM and sampled anew, with the attention of
    the picture, which was inverted likewise. The defaults are the symmetric form (see `Form`); the
    release's is levels: 50, start_step: 4, stored_reference: false. The picture and the views are resized to what the
    model was made for, or to `resolution`, and back, however large they are.
    """

    @dataclass
    class Config:
        prior: Annotated[ComponentSpec, "depth-prior"] = field(default_factory=bundled)  # the depth-conditioned model
        prompt: str = ""  # what the object is, in a few words; taken literally; empty: no guidance
        steps: Annotated[int, Range(2, 1000)] = 50  # of the grid, from clean to noise
        levels: Annotated[int, Range(2)] = 30  # of those: steps of inversion, and of sampling
        start_step: NonNegativeInt = 0  # step of sampling from which on views look at the picture
        last_layers: NonNegativeInt = LAST_QUARTER  # self-attentions that look at the picture; 0: the last quarter
        guidance_scale: Annotated[float, Range(1)] = 9.0  # of sampling by the prompt, u + g (c - u); 1: none
        stored_reference: bool = True  # the picture keeps the states of its inversion; false: it is sampled and drifts
        resolution: NonNegativeInt = 0  # pixels across the views while enhanced; 0: the prior's, which is the most
        estimator: str = ""  # folder or hub name of a monocular depth estimator; empty: depth from the masks alone

        def __post_init__(self) -> None:
            check_range("levels", self.levels, 2, self.steps)
            check_range("start_step", self.start_step, 0, self.levels)

    config: Config

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config, self.device = config, device
        self.prior: DepthPrior = config.prior.build(device=device)
        self.size = config.resolution or self.prior.resolution
        self.prior.check(config.prompt, config.last_layers, self.size)
        self.estimator = DepthEstimator(config.estimator, device=device) if config.estimator else None

    def fingerprint(self) -> dict[str, Any]:
        """Options, and the digests of the model's and the estimator's files."""
        options = {k: v for k, v in to_plain(self.config).items() if k not in ("prior", "estimator")}
        estimator = estimator_fingerprint(self.config.estimator) if self.config.estimator else {}
        return {"name": "rgnv", "options": options, KIND: self.prior.fingerprint(), "estimator": estimator}

    @torch.no_grad()
    def repaint(self, views: ReferenceViews) -> Tensor:
        """See `ViewEnhancer.repaint`. Views are enhanced before grey, and put over that inside their masks.

        Raises:
            InputError: a view without object, or of flat estimated depth; or the model overflows.
        """
        assert views.input_view is not None
        config, prior, size = self.config, self.prior, self.size
        prior.announce("enhance")
        warn_of_shrinking("enhance", views, size)
        before_grey = _resized(views.over(GREY), size, size)
        depths = self._depths(before_grey, _resized(views.masks, size, size)).to(self.device)
        scale = config.guidance_scale if config.prompt else 1.0
        form = Form(config.levels, config.levels - config.start_step, scale, config.last_layers)
        grid, prompts = prior.grid(config.steps), prior.prompts(config.prompt)
        others = [index for index in range(len(views)) if index != views.input_view]
        painted = views.images.clone()
        chunks = [others[begin : begin + prior.config.chunk] for begin in range(0, len(others), prior.config.chunk)]
        stored = config.stored_reference
        with _shown_calls(prior.unet, form.reference_calls(stored=stored) + form.view_calls * len(chunks)):
            latents = prior.encode(before_grey[[views.input_view]].to(self.device), "reference")
            depth = depths[[views.input_view]]
            reference = prepare_reference(prior.unet, latents, depth, prompts.empty, grid, form, stored=stored)
            for chosen in chunks:
                latents = prior.encode(before_grey[chosen].to(self.device), "view")
                enhanced = enhance(prior.unet, latents, depths[chosen], prompts, reference, grid, form)
                _check_finite(enhanced)
                found = _resized(prior.decode(enhanced).cpu(), *views.images.shape[1:3])
                # Of `found` the grey behind the object is taken away, by which its outline keeps its own colour.
                painted[chosen] = found + (1 - views.masks[chosen]) * (views.images[chosen] - GREY)
        return painted.clamp(0, 1)

    def _depths(self, images: Tensor, masks: Tensor) -> Tensor:
        """[V, 1, h, w] of all views, made alike.

        Raises:
            InputError: a view without object, or one whose estimated depth is flat.
        """
        size = (self.size // self.prior.shrinkage,) * 2  # not the prior's `side`: `resolution` may be smaller
        if self.estimator is None:
            return mask_channel(masks, size)
        return depth_channel(self.estimator(images).cpu(), masks, size, self.estimator.meaning)


def _check_finite(latents: Tensor) -> None:
    """Raise an InputError before what overflowed is painted black and cached."""
    if not latents.isfinite().all():
        raise InputError("enhance: the model's numbers are not finite; try views.enhance.prior.precision=float32")


@contextmanager
def _shown_calls(unet: nn.Module, count: int) -> Iterator[None]:
    """While open, `count` calls of the network move a progress bar, whose text, maybe a line each, changes 10 times."""
    done = 0
    with WorkProgress("enhance") as progress:

        def show(*_: object) -> None:
            nonlocal done
            done += 1
            progress(f"{10 * (10 * done // count)} %", done / count)

        hook = unet.register_forward_hook(show)
        try:
            yield
        finally:
            hook.remove()


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, C] in [0, 1] of images [B, H, W, C] on the CPU."""
    if images.shape[1:3] == (height, width):
        return images
    return torch.stack([resize_lanczos(image, height, width).clamp(0, 1) for image in images])
