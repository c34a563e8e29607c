"""Guidance by the reference views: photometric and geometric losses."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import PositiveInt, Range, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.schedules import OFF, ON, Schedule, check_milestones, phase
from liftstudio.core.shares import OrShare
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance import losses
from liftstudio.guidance.base import Guidance, Request
from liftstudio.metrics.lpips import load_lpips

RenderWidth = Annotated[int, Range(0), OrShare()]

FACING = (
    0.5  # cosine between normal and viewing direction above which the user's picture shows a surface in full detail
)


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest(Request):
    """Pixels of B reference views to render, with their targets.

    images:       [B, H, W, 3] straight colour in [0, 1].
    masks:        [B, H, W, 1] in [0, 1].
    maps:         name of a loss -> target map [B, H, W, C].
    background:   [B, 1, 1, 3] background colour of render and reference, in [0, 1].
    is_generated: [B, 1, 1, 1] bool, false for input views; None: the colours of all views have the same weight.
    seen:         [B, H, W, 1] bool, pixels that the losses compare; None: all.
    """

    images: Tensor
    masks: Tensor
    maps: dict[str, Tensor]
    background: Tensor
    is_generated: Tensor | None
    seen: Tensor | None


@register("reconstruction")
class Reconstruction(Guidance[ReferenceRequest]):
    """Renders the reference views and compares them with the reference images, masks and maps."""

    compares_pictures = True

    @dataclass
    class Config(Guidance.Config):
        views_per_step: PositiveInt = 2  # reference views drawn per step, without replacement
        input_view_weight: Annotated[float, Range(1e-3)] = 1.0  # frequency of an input view relative to generated ones
        input_view_priority: UnitFloat = 0.0  # how much less generated colours count where an input view shows them
        resolution: list[RenderWidth] = field(default_factory=lambda: [0])  # render width per milestone; 0: full
        resolution_milestones: list[int] = field(default_factory=list)  # steps at which the next resolution begins
        generated_shape: bool = True  # whether generated views change the shape of a surface, or only its colours
        random_background: bool = True  # random background colour for render and reference; otherwise white
        lpips_weights: str = ""  # folder or file with the published LPIPS weights; needed by lambda_lpips
        lambda_rgb: Schedule = ON  # mean squared colour error
        lambda_mask: Schedule = ON  # mean squared opacity error
        lambda_ssim: Schedule = OFF  # 1 - SSIM
        lambda_lpips: Schedule = OFF  # learned perceptual distance
        lambda_mono_normal: Schedule = OFF  # 1 - cosine to the views' normal maps
        lambda_mono_depth: Schedule = OFF  # 1 - correlation with the views' depth maps
        lambda_depth_smoothness: Schedule = OFF  # squared depth difference of neighbouring pixels
        lambda_bilateral_normal: Schedule = OFF  # change of the normal where the image is smooth
        bilateral_normal: Literal["smooth", "printed"] = "smooth"  # without a kink at flat normals, or as SV3D has it
        lambda_illumination: Schedule = OFF  # light follows the image's brightness; needs a light that can be fitted
        illumination: Literal["up-to-scale", "printed"] = "up-to-scale"  # compared up to a factor, or as SV3D has it

        def __post_init__(self) -> None:
            check_milestones("resolution", self.resolution, self.resolution_milestones)

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        self.config = config
        if views is None:
            raise InputError("guidance 'reconstruction' needs reference views; add a 'views:' block to the config")
        chosen = views.training()
        if not len(chosen):
            raise InputError("guidance 'reconstruction' needs reference views, but all of them are held out")
        if not config.generated_shape and chosen.input_view is None:
            raise InputError("generated_shape: expected true, since the input view is not among the views")
        self.views = chosen
        self.reference_cameras = chosen.cameras.to(device)
        self.images, self.masks = chosen.images.to(device), chosen.masks.to(device)
        self.seen = None if chosen.windows is None else chosen.seen().to(device)
        self.shares = torch.ones(len(chosen), device=device)  # relative frequencies of the views
        self.inputs = torch.tensor(chosen.input_views, dtype=torch.long, device=device)
        self.shares[self.inputs] = config.input_view_weight
        self.maps = {
            name: None if maps is None else maps.to(device)
            for name, maps in (("mono_normal", chosen.normals), ("mono_depth", chosen.depths))
        }
        self._check_maps()
        if self.is_used("lpips") and not config.lpips_weights:
            raise InputError("lpips_weights: empty, but lambda_lpips is used; give the folder of the published weights")
        self.lpips = load_lpips(input_path(config.lpips_weights)).to(device) if self.is_used("lpips") else None

    def _check_maps(self) -> None:
        for name, maps in self.maps.items():
            if maps is None and self.is_used(name):
                raise InputError(f"lambda_{name}: used, but the views have no {name.removeprefix('mono_')} maps")

    def resolution(self, step: int) -> int:
        """Return the width in pixels of the renders at a step; 0: that of the reference images."""
        return self.config.resolution[phase(self.config.resolution_milestones, step)]

    def request(self, step: int, generator: torch.Generator) -> ReferenceRequest:
        """Draw reference views without replacement; at a lower resolution take a random lattice of their pixels."""
        device = self.images.device
        count = min(self.config.views_per_step, len(self.images))
        chosen = torch.multinomial(self.shares, count, generator=generator)
        cameras = self.reference_cameras[chosen]
        wanted = self.resolution(step) or cameras.width
        stride = max(1, cameras.width // wanted)
        offsets = torch.randint(stride, (2, count), generator=generator, device=device)
        height, width = cameras.height // stride, cameras.width // stride
        rows = offsets[1, :, None] + stride * torch.arange(height, device=device)
        columns = offsets[0, :, None] + stride * torch.arange(width, device=device)
        lattice = chosen[:, None, None], rows[:, :, None], columns[:, None, :]
        background = torch.rand(count, 1, 1, 3, generator=generator, device=device)
        return ReferenceRequest(
            step=step,
            cameras=cameras.lattice(stride, offsets[0], offsets[1], height, width),
            passes=self._passes(),
            images=self.images[lattice],
            masks=self.masks[lattice],
            maps={name: maps[lattice] for name, maps in self.maps.items() if maps is not None},
            background=background if self.config.random_background else torch.ones_like(background),
            is_generated=self._is_generated(chosen) if self._weighs_colors else None,
            seen=None if self.seen is None else self.seen[lattice],
            moves_shape=self.config.generated_shape or not bool(self._is_generated(chosen).any()),
        )

    def _is_generated(self, chosen: Tensor) -> Tensor:
        return ~torch.isin(chosen, self.inputs).view(-1, 1, 1, 1)

    def _passes(self) -> frozenset[str]:
        """Return normals if a loss on them is used; normals and points if colours are weighted by the input views."""
        if self._weighs_colors:
            return frozenset({"normal", "points"})
        needs_normal = self.is_used("bilateral_normal") or self.is_used("mono_normal")
        return frozenset({"normal"}) if needs_normal else frozenset()

    @property
    def _weighs_colors(self) -> bool:
        return self.config.input_view_priority > 0 and len(self.inputs) > 0

    def _color_weights(self, request: ReferenceRequest, render: Render) -> Tensor | None:
        """Return weights [B, H, W, 1] in [0, 1], lower in generated views where the surface faces an input view.

        Occlusion is ignored: a surface that is hidden in that input view has a low weight too, which suffices, since no
        other colours compete with it.
        """
        if request.is_generated is None:
            return None
        points, normals = (render.require(name).detach() for name in ("points", "normal"))
        centers = self.reference_cameras.centers[self.inputs]
        cosines = [(F.normalize(center - points, dim=-1) * normals).sum(-1, keepdim=True) for center in centers]
        cosine = torch.stack(cosines).amax(0)
        in_picture = (cosine / FACING).clamp(0, 1) * request.is_generated
        return 1 - self.config.input_view_priority * in_picture

    def losses(self, request: ReferenceRequest, render: Render) -> dict[str, Tensor]:
        """Return the losses between a request's render and its reference views, where their weight is not 0."""
        image, mask, maps = request.images, request.masks, request.maps
        rgb = render.over(request.background)
        target = image * mask + (1 - mask) * request.background
        opacity = render.opacity
        if request.seen is not None:  # in the padding of a photograph every render is right
            rgb, opacity = rgb.where(request.seen, target), opacity.where(request.seen, mask)
        functions = {
            "rgb": lambda: losses.rgb(rgb, target, self._color_weights(request, render)),
            "mask": lambda: losses.mask(opacity, mask),
            "ssim": lambda: losses.one_minus_ssim(rgb, target),
            "lpips": lambda: self._lpips(rgb, target),
            "mono_normal": lambda: losses.mono_normal(render.require("normal"), maps["mono_normal"], mask),
            "mono_depth": lambda: losses.mono_depth(render.require("depth"), maps["mono_depth"], mask),
            "depth_smoothness": lambda: losses.depth_smoothness(render.require("depth"), mask, self._distance()),
            "bilateral_normal": lambda: losses.bilateral_normal(
                render.require("normal"), target, mask, printed=self.config.bilateral_normal == "printed"
            ),
            "illumination": lambda: losses.illumination(
                render.require("irradiance"), image, mask, printed=self.config.illumination == "printed"
            ),
        }
        return {name: function() for name, function in functions.items() if self.weight(name, request.step) != 0}

    def _lpips(self, rgb: Tensor, target: Tensor) -> Tensor:
        assert self.lpips is not None
        return self.lpips(rgb, target).mean()

    def _distance(self) -> float:
        return self.reference_cameras.distance.mean().item()
