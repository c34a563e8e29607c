"""Reference-guided novel view enhancement, RGNV (Yu et al. 2023, "HiFi-123", sec. 3.1), and its plug-in for views.

Views are inverted by DDIM, then sampled again with attention to a reference that was inverted in the same way.
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
from liftstudio.priors.chunks import MOST
from liftstudio.views.enhancement import ViewEnhancer

from .ddim import OnStep, Predict, TimestepGrid, invert, sample
from .depth import depth_channel, mask_channel
from .injection import LAST_QUARTER, KeysValues, injection
from .model import Prompts, inverting, with_cached_reference
from .monocular import DepthEstimator, estimator_fingerprint
from .prior import GREY, KIND, DepthPrior, bundled, warn_of_shrinking


@dataclass(frozen=True)
class Form:
    """How far views are inverted, and where they attend to the reference; the defaults are those of the release.

    levels:         number of inversion steps, and of sampling steps.
    injected:       number of last sampling steps that attend to the reference.
    guidance_scale: of sampling; inversion is unguided.
    last_layers:    self-attention layers that attend to the reference, counted from the last; 0: the last quarter.
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
        """Return the paper's simplified form: partial inversion, with injection in all sampling steps."""
        return cls(levels, levels, **options)

    @classmethod
    def full_range(cls, steps: int = 50, start_step: int = 4, **options: Any) -> "Form":
        """Return the release's form: all steps of the grid, with injection from step `start_step` on."""
        return cls(steps, steps - start_step, **options)

    def reference_calls(self, *, stored: bool = True) -> int:
        """Number of network calls by `prepare_reference`; the first step costs none."""
        sampled = self.injected if stored else self.levels
        return self.levels - 1 + max(0, sampled - 1)

    @property
    def view_calls(self) -> int:
        """Number of network calls by `enhance`, down to the clean latents."""
        return 2 * (self.levels - 1)


@dataclass(frozen=True)
class Reference:
    """What enhancement needs of a reference view: computed once, used for all views.

    states:      [levels + 1, 1, 4, h, w] states of its inversion.
    keys_values: timestep -> layer -> keys and values, at the steps with injection. For 64 x 64 latents of Stable
                 Diffusion, 18 MB per step in half precision.
    """

    states: Tensor
    keys_values: dict[int, KeysValues]


def prepare_reference(
    unet: Any, latents: Tensor, depth: Tensor, empty: Tensor, grid: TimestepGrid, form: Form, *, stored: bool = True
) -> Reference:
    """Invert a reference and record its keys and values at all steps where views attend to it.

    Args:
        latents: [1, 4, h, w] clean, float32.
        depth: [1, 1, h, w] in [-1, 1].
        empty: [1, tokens, D] embedded empty prompt.
        stored: the reference passes through the states of its inversion again and stays exact (the release's option
            `ref_intermediate_latents`); otherwise it is sampled from the last of them and drifts.

    Raises:
        InputError: more levels than the grid has, or no self-attention at the requested layers.
    """
    plain = inverting(unet, depth, empty)
    with injection(unet, form.last_layers):
        pass  # rejects a UNet without those layers before the long work
    states = invert(plain, latents, grid, form.levels)
    keys_values: dict[int, KeysValues] = {}

    @torch.no_grad()
    def recorded(state: Tensor, timestep: int) -> Tensor:
        with injection(unet, form.last_layers) as found:  # of a batch of the reference alone: no change for it
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
    """Return the enhanced latents [V, 4, h, w] of views: inverted, then sampled with attention to the reference.

    Equals `ddim.sample` with `model.beside_reference`, but evaluates the reference once for all views.

    Args:
        latents: [V, 4, h, w] clean, float32.
        depths: [V, 1, h, w] in [-1, 1], computed in the same way as the reference's.
        reference: prepared with the same grid and form.
        on_step: called after each sampling step.
        stop: level at which sampling ends, see `ddim.sample`; 0: the clean latents.
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
    """Return latents [1 + V, 4, h, w] as the released script does: views start as the reference and are swapped in.

    All of them start as the inverted reference. At `level` the views replace what is inside the mask; the background
    continues as the reference's.

    Args:
        predict: as `model.beside_reference`.
        reference: [1, 4, h, w] inverted to the grid's last level.
        novel: [V, 4, h, w] inverted to `level`. The release, which stops inversion at `stop`, inserts states of level
            stop + 1 at level stop - 1; correct are equal levels.
        mask: [V, 1, h, w] in [0, 1], 1 on the object.

    Raises:
        InputError: `level` is not in the grid.
    """
    both = torch.cat([reference, reference.expand_as(novel)])
    both = sample(predict, both, grid, grid.steps, level, on_step)
    mixed = mask * novel + (1 - mask) * both[1:]
    return sample(predict, torch.cat([both[:1], mixed]), grid, level, on_step=on_step)


@register("rgnv")
class RGNV(ViewEnhancer):
    """Gives generated views the texture of the nearest input image, as HiFi-123 does.

    After Yu et al. 2023, "HiFi-123", sec. 3.1: the views are inverted by DDIM and sampled again with attention to the
    input image, which was inverted in the same way. The defaults are the symmetric form (see `Form`). The release's is
    levels: 50, start_step: 4, stored_reference: false. Input image and views of any size are resized to the model's
    resolution, or to `resolution`, and back.
    """

    @dataclass
    class Config:
        prior: Annotated[ComponentSpec, "depth-prior"] = field(default_factory=bundled)  # the depth-conditioned model
        prompt: str = ""  # short description of the object, used verbatim; empty: no guidance
        steps: Annotated[int, Range(2, 1000)] = 50  # steps of the timestep grid, from clean to noise
        levels: Annotated[int, Range(2)] = 30  # how many of those are inverted, and sampled again
        start_step: NonNegativeInt = 0  # sampling step from which on views attend to the input image
        last_layers: NonNegativeInt = LAST_QUARTER  # last self-attention layers that are injected; 0: a quarter of all
        guidance_scale: Annotated[float, Range(1)] = 9.0  # g in u + g (c - u), guidance by the prompt; 1: none
        stored_reference: bool = True  # input image passes its inversion states again; false: it is sampled, and drifts
        resolution: NonNegativeInt = 0  # pixels across the views during enhancement; 0: the prior's, the maximum
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
        """Return the options, and the digests of the model's and the estimator's files."""
        options = {k: v for k, v in to_plain(self.config).items() if k not in ("prior", "estimator")}
        estimator = estimator_fingerprint(self.config.estimator) if self.config.estimator else {}
        return {"name": "rgnv", "options": options, KIND: self.prior.fingerprint(), "estimator": estimator}

    @torch.no_grad()
    def repaint(self, views: ReferenceViews, own: Tensor) -> Tensor:
        """See `ViewEnhancer.repaint`; `own` is not used.

        Views are composited over grey before enhancement and pasted by their masks.

        Raises:
            InputError: a view has no object or flat estimated depth, or the model overflows.
        """
        assert views.input_views
        config, prior, size = self.config, self.prior, self.size
        prior.announce("enhance")
        warn_of_shrinking("enhance", views, size)
        over_grey = _resized(views.over(GREY), size, size)
        depths = self._depths(over_grey, _resized(views.masks, size, size)).to(self.device)
        scale = config.guidance_scale if config.prompt else 1.0
        form = Form(config.levels, config.levels - config.start_step, scale, config.last_layers)
        grid, prompts = prior.grid(config.steps), prior.prompts(config.prompt)
        painted = views.images.clone()
        chunks = _chunks(views, prior.config.chunk or MOST)
        stored = config.stored_reference
        calls = form.reference_calls(stored=stored) * len(chunks) + form.view_calls * sum(map(len, chunks.values()))
        with _shown_calls(prior.unet, calls):
            for picture, near in chunks.items():
                latents = prior.encode(over_grey[[picture]].to(self.device), "reference")
                depth = depths[[picture]]
                reference = prepare_reference(prior.unet, latents, depth, prompts.empty, grid, form, stored=stored)
                for chosen in near:
                    latents = prior.encode(over_grey[chosen].to(self.device), "view")
                    enhanced = enhance(prior.unet, latents, depths[chosen], prompts, reference, grid, form)
                    _check_finite(enhanced)
                    found = _resized(prior.decode(enhanced).cpu(), *views.images.shape[1:3])
                    # Replaces the grey background in `found` by the original one, so outlines keep their own colour.
                    painted[chosen] = found + (1 - views.masks[chosen]) * (views.images[chosen] - GREY)
        return painted.clamp(0, 1)

    def _depths(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the depth channels [V, 1, h, w] of all views, all from the same source.

        Raises:
            InputError: a view has no object, or flat estimated depth.
        """
        size = (self.size // self.prior.shrinkage,) * 2  # not the prior's `side`: `resolution` may be smaller
        if self.estimator is None:
            return mask_channel(masks, size)
        return depth_channel(self.estimator(images).cpu(), masks, size, self.estimator.meaning)


def _chunks(views: ReferenceViews, size: int) -> dict[int, list[list[int]]]:
    """Return the generated views that are nearest to each input view, in lists of at most `size`."""
    chunks: dict[int, list[list[int]]] = {}
    nearest = views.nearest_input().tolist()
    for picture in views.input_views:
        near = [view for view, other in enumerate(nearest) if other == picture and view not in views.input_views]
        if near:
            chunks[picture] = [near[begin : begin + size] for begin in range(0, len(near), size)]
    return chunks


def _check_finite(latents: Tensor) -> None:
    """Raise an InputError if the model overflowed, before black views are cached."""
    if not latents.isfinite().all():
        raise InputError("enhance: the model returned non-finite values; try views.enhance.prior.precision=float32")


@contextmanager
def _shown_calls(unet: nn.Module, count: int) -> Iterator[None]:
    """Show a progress bar over `count` network calls; its text, possibly a log line each, changes only 10 times."""
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
    """Return images [B, H, W, C] on the CPU resized to [B, height, width, C], in [0, 1]."""
    if images.shape[1:3] == (height, width):
        return images
    return torch.stack([resize_lanczos(image, height, width).clamp(0, 1) for image in images])
