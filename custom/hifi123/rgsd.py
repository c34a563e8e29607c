"""Reference-guided state distillation, RGSD (Yu et al. 2023, "HiFi-123", sec. 3.2): targets, loss, and the guidance.

The paper's formulas are missing from its published text; these are reconstructed from its description. A render's
latents z are inverted to a noisy state and sampled with attention to the reference down to the noise level alpha, where
the state is x~ and the noise that led there eps~. The loss is the distance of x~ from z with the same noise added,

    || sqrt(alpha) z + sqrt(1 - alpha) eps~ - x~ ||^2  =  alpha || z - x0~ ||^2,

with x0~ the estimate of the clean latents in x~ by eps~, that is, of the last sampling step. Everything but z is held
fixed: no gradient passes through the network.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_pair, check_range
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import MinLength, NonNegativeInt, Range
from liftstudio.core.registry import register
from liftstudio.core.schedules import OFF, ON, Schedule
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.images import resize_smooth
from liftstudio.data.orbits import ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.base import Guidance, Request
from liftstudio.guidance.score_distillation import posed_image

from .ddim import TimestepGrid, clean_latents
from .depth import NotInSightError, RenderedDepth, mask_channel
from .injection import LAST_QUARTER
from .model import Prompts
from .prior import GREY, DepthPrior, UnetWork, bundled, check_options, warn_of_shrinking
from .rgnv import Form, Reference, enhance, prepare_reference

_NOISY = 2  # the lowest level with more noise than the clean latents: levels 0 and 1 are equal

Levels = Annotated[int, Range(_NOISY + 1)]
Timestep = Annotated[int, Range(0, 999)]


@dataclass(frozen=True, kw_only=True)
class StateRequest(Request):
    """One camera, and the state of its enhancement that the render is pulled to.

    fixed: index of the fixed camera; None: a random one.
    level: grid level of the state; 0: the enhanced latents.
    """

    fixed: int | None
    level: int


@dataclass(frozen=True)
class Target:
    """A state of enhanced views that latents are pulled to.

    state:     [B, 4, h, w] at its level.
    epsilon:   [B, 4, h, w] noise that led there.
    alpha_bar: of the level; 1: clean latents.
    """

    state: Tensor
    epsilon: Tensor
    alpha_bar: float

    def clean(self) -> Tensor:
        """Return the estimate of the clean latents in the state."""
        return clean_latents(self.state, self.epsilon, self.alpha_bar)


def enhanced_target(
    unet: Any,
    latents: Tensor,
    depths: Tensor,
    prompts: Prompts,
    reference: Reference,
    grid: TimestepGrid,
    form: Form,
    level: int,
) -> Target:
    """Return the state at `level` of views inverted and sampled with attention to the reference; no gradient.

    Args:
        latents, depths, prompts, reference, grid, form: as `rgnv.enhance`.
        level: 0: the clean latents; otherwise below `form.levels`, and above 1, which is as clean as 0.

    Raises:
        InputError: sampling does not reach the level.
    """
    check_range("level", level, 0, form.levels - 1)
    epsilon = torch.zeros_like(latents)

    def keep(_: int, __: Tensor, noise: Tensor) -> None:
        nonlocal epsilon
        epsilon = noise

    state = enhance(unet, latents.detach(), depths, prompts, reference, grid, form, keep, level)
    return Target(state, epsilon, 1.0 if level == 0 else grid.alpha_bars[level])


def state_distance(latents: Tensor, target: Target, mask: Tensor | float = 1.0) -> Tensor:
    """Return the mean squared distance of noised latents [B, 4, h, w] from a target, over all elements.

    Its gradient with respect to the N elements of the latents is 2 M alpha (z - x0~) / N.

    Args:
        latents: z, clean.
        target: as `enhanced_target`; held fixed.
        mask: M in [0, 1], broadcast against the latents; held fixed.
    """
    noised = target.alpha_bar**0.5 * latents + (1 - target.alpha_bar) ** 0.5 * target.epsilon.detach()
    weights = torch.as_tensor(mask, device=latents.device).detach()
    return (weights * (noised - target.state.detach()).square()).mean()


@register("hifi123-rgsd")
class StateDistillation(Guidance[StateRequest]):
    """HiFi-123's texture guidance: fixed views are pulled to their enhanced versions, random ones to noisy states.

    After Yu et al. 2023, "HiFi-123", sec. 3.2. The two kinds of cameras alternate. Enhanced latents of a fixed camera
    are computed once, at its first turn; those of a random camera at every turn. It is meant for the texture of a
    finished shape. Its gradient still reaches the shape, through outlines and through the points where the texture is
    looked up: set the learning rate of the geometry's parameters to 0 to keep the shape.
    """

    @dataclass
    class Config(Guidance.Config):
        prior: Annotated[ComponentSpec, "depth-prior"] = field(default_factory=bundled)  # the depth-conditioned model
        prompt: str = ""  # short description of the object, used verbatim; empty: no guidance
        steps: Annotated[int, Range(2, 1000)] = 20  # steps of the timestep grid, from clean to noise
        levels: Levels = 12  # how many of those are inverted, and sampled with attention to the input image
        last_layers: NonNegativeInt = LAST_QUARTER  # last self-attention layers that are injected; 0: a quarter of all
        guidance_scale: Annotated[float, Range(1)] = 7.5  # g in u + g (c - u), guidance by the prompt; 1: none
        timesteps: tuple[Timestep, Timestep] = (50, 500)  # range of the states that random cameras are pulled to
        fixed_azimuths_deg: Annotated[list[float], MinLength(1)] = field(
            default_factory=lambda: [90.0, -90.0]
        )  # fixed cameras, relative to the input image
        fixed_elevation_deg: ElevationDeg = 0.0  # of the fixed cameras
        refresh_every: NonNegativeInt = 0  # steps after which a fixed camera's target is recomputed; 0: never
        elevations_deg: tuple[ElevationDeg, ElevationDeg] = (-10.0, 60.0)  # of random cameras, at any azimuth
        depth: Literal["render", "mask"] = "render"  # depth condition: the render's depth, or its outline alone
        resolution: NonNegativeInt = 0  # pixels across the renders, resized to the prior's; 0: the prior's
        lambda_rgsd: Schedule = ON  # mean squared distance of noised latents on the object from their targets
        lambda_image: Schedule = OFF  # mean squared distance of the render on the object from the decoded target

        def __post_init__(self) -> None:
            check_range("levels", self.levels, _NOISY + 1, self.steps)
            check_pair("elevations_deg", self.elevations_deg)
            check_pair("timesteps", self.timesteps)
            if not self.noisy_levels():
                highest = (self.levels - 2) * (1000 // self.steps)
                raise InputError(
                    f"timesteps: expected a range with a multiple of {1000 // self.steps} up to {highest}, the states "
                    f"of a grid of {self.steps} steps"
                )
            check_options(self.prior, self.prompt, self.last_layers)

        def noisy_levels(self) -> list[int]:
            """Return the grid levels of the states for random cameras; level i + 1 is that of timestep i."""
            low, high = self.timesteps
            return [i for i in range(_NOISY, self.levels) if low <= (i - 1) * (1000 // self.steps) <= high]

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        self.config, self.device = config, device
        self.prior: DepthPrior = config.prior.build(device=device)
        self.prior.check(config.prompt, config.last_layers, self.prior.resolution)
        self.picture = posed_image(views, self.prior.resolution, device)
        self.prior.announce("RGSD")
        assert views is not None  # the input image is one of them
        warn_of_shrinking("RGSD", views, self.prior.resolution)
        if not config.prompt:
            log.warning("RGSD: no prompt, so text guidance is off; set prompt to a description of the object")
        self.grid = self.prior.grid(config.steps)
        scale = config.guidance_scale if config.prompt else 1.0
        self.form = Form.symmetric(config.levels, guidance_scale=scale, last_layers=config.last_layers)
        self._depths = RenderedDepth("RGSD", self.prior.side, by_mask=config.depth == "mask")
        self._reference_depth: Tensor | None = (
            None if config.depth == "render" else mask_channel(self.picture.mask[None], self._depths.size)
        )
        self._targets: dict[int, tuple[int, Tensor]] = {}  # fixed camera -> step of computation, clean latents
        self._work = UnetWork(self.prior)
        self._distances: dict[str, float] = {}

    @cached_property
    def _prompts(self) -> Prompts:
        return self.prior.prompts(self.config.prompt)

    @cached_property
    def _reference(self) -> Reference:
        """The input image's inversion, keys and values; needs its depth."""
        assert self._reference_depth is not None
        image = self.picture.image - (1 - self.picture.mask) * (1 - GREY)  # from white to grey
        with torch.no_grad():
            latents = self.prior.encode(image[None], "reference")
        unet, empty = self.prior.unet, self._prompts.empty
        return prepare_reference(unet, latents, self._reference_depth, empty, self.grid, self.form)

    def request(self, step: int, generator: torch.Generator) -> StateRequest:
        """Draw one camera, alternately fixed and random; the input image's is added until its depth is known."""
        config, turn = self.config, step - self.config.start
        if turn % 2 == 0:
            fixed, level = turn // 2 % len(config.fixed_azimuths_deg), 0
            cameras = self._cameras(config.fixed_azimuths_deg[fixed], config.fixed_elevation_deg)
        else:
            draws = torch.rand(3, generator=generator, device=generator.device).tolist()
            (low, high), levels = config.elevations_deg, config.noisy_levels()
            fixed, level = None, levels[int(len(levels) * draws[2])]
            cameras = self._cameras(360 * draws[0], low + (high - low) * draws[1])
        passes = frozenset({"depth"} if config.depth == "render" else ())
        return StateRequest(step=step, cameras=cameras, passes=passes, fixed=fixed, level=level)

    def _cameras(self, azimuth_deg: float, elevation_deg: float) -> Cameras:
        """Return a camera at angles relative to the input image's, plus the latter if its depth is not known yet."""
        start, size = self.picture.camera, self.config.resolution or self.prior.resolution
        angles = start.azimuth_deg + azimuth_deg, torch.full_like(start.azimuth_deg, elevation_deg)
        camera = orbit_cameras(*angles, start.distance, start.fov_deg.item(), size, size)
        return camera if self._reference_depth is not None else concatenate([camera, start.resized(size, size)])

    def losses(self, request: StateRequest, render: Render) -> dict[str, Tensor]:
        """Return `rgsd`: `state_distance` on the object; `image`: the same in pixels. 0 if the object is not in view.

        Raises:
            InputError: the shape is not in view of the input image's camera.
        """
        weighted = [name for name in ("rgsd", "image") if self.weight(name, request.step) != 0]
        if not weighted:
            return {}
        try:
            depths = self._depths(render, slice(1))
        except NotInSightError:
            return dict.fromkeys(weighted, self._depths.skipped(render))
        if self._reference_depth is None:
            self._reference_depth = self._depth_of_picture(render)
        size, reference = self.prior.resolution, self._reference
        shown = resize_smooth(render.over(GREY)[:1], size, size)
        latents = self.prior.encode(shown, "render")
        with self._work.turn():
            target = self._target(request, latents.detach(), depths, reference)
        mask = F.interpolate(render.opacity[:1].detach().permute(0, 3, 1, 2), latents.shape[2:], mode="area")
        self._note_distance(request, latents.detach(), target, mask)
        distances = {
            "rgsd": lambda: state_distance(latents, target, mask),
            "image": lambda: self._image_distance(
                shown, target, resize_smooth(render.opacity[:1].detach(), size, size)
            ),
        }
        return {name: distances[name]() for name in weighted}

    def _image_distance(self, shown: Tensor, target: Target, mask: Tensor) -> Tensor:
        """Return the mean squared distance of a render [1, R, R, 3] over grey from the decoded target; masked."""
        with torch.no_grad():
            wanted = self.prior.decode(target.clean())
        return (mask * (shown - wanted).square()).mean()

    def _depth_of_picture(self, render: Render) -> Tensor:
        try:
            return self._depths(render, slice(1, 2))
        except NotInSightError:
            raise InputError("RGSD: the input image's camera sees nothing, or next to nothing, of the shape") from None

    def _target(self, request: StateRequest, latents: Tensor, depths: Tensor, reference: Reference) -> Target:
        """Return a fixed camera's stored target unless it is missing or outdated; for a random camera, a new one."""
        fixed, level, unet = request.fixed, request.level, self.prior.unet
        if fixed is not None and fixed in self._targets:
            made_at, clean = self._targets[fixed]
            if not 0 < self.config.refresh_every <= request.step - made_at:
                return Target(clean, torch.zeros_like(clean), 1.0)
        target = enhanced_target(unet, latents, depths, self._prompts, reference, self.grid, self.form, level)
        if fixed is not None:
            self._targets[fixed] = request.step, target.state
        return target

    def _note_distance(self, request: StateRequest, latents: Tensor, target: Target, mask: Tensor) -> None:
        squared = (mask * (latents - target.clean()).square()).mean() / mask.mean().clamp_min(1e-6)
        self._distances["random_distance" if request.fixed is None else "fixed_distance"] = squared.item()

    def metrics(self) -> dict[str, float]:
        """Return the number of images through the UNet per step so far, and the latest distances from targets.

        The inversion of the input image is not counted. Distances are mean squared differences between clean latents
        and their enhanced estimates on the object, and so comparable across noise levels.
        """
        return {**self._work.metrics(), **self._distances}

    def state(self) -> dict[str, Any]:
        """Return the fixed cameras' targets, the input image's depth, and the counts behind `figures`."""
        return {
            "targets": {str(index): {"step": step, "clean": clean} for index, (step, clean) in self._targets.items()},
            "reference_depth": [] if self._reference_depth is None else [self._reference_depth],
            "counts": [self._work.turns, self._work.evaluations],
            "distances": dict(self._distances),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Guidance.load_state`."""
        targets = state["targets"].items()
        self._targets = {int(index): (saved["step"], saved["clean"].to(self.device)) for index, saved in targets}
        self._reference_depth = next((depth.to(self.device) for depth in state["reference_depth"]), None)
        self._work.turns, self._work.evaluations = state["counts"]
        self._distances = dict(state["distances"])
