"""Reference views that a diffusion prior generates from one image or from a text."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from liftstudio import __version__
from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.cache import cached, content_key
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import WorkProgress, kept_warnings, log
from liftstudio.core.ranges import NonNegativeInt, Range
from liftstudio.data.cameras import Cameras, Distance, FovDeg, concatenate, orbit_cameras, turned
from liftstudio.data.images import image_size, resize_lanczos, straight_from_white
from liftstudio.data.orbits import MAX_ELEVATION_DEG, Angles, ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import GuidanceScale
from liftstudio.priors.opening import ResolvedPrior, check_weights, resolve
from liftstudio.priors.samplers import euler
from liftstudio.views import matting
from liftstudio.views.base import ViewSource
from liftstudio.views.elevation import ElevationEstimate, estimate_elevation
from liftstudio.views.enhancement import ViewEnhancer, with_colors
from liftstudio.views.estimation import MapEstimator
from liftstudio.views.input_image import FRAME_RATIO, InputImage, PlacedImage, checked_box, load_input_image
from liftstudio.views.plug_in import ViewPlugIn
from liftstudio.views.several_images import check_labels, load_labelled, naming_label
from liftstudio.views.silhouettes import FOREGROUND, alpha_before, main_pieces

OnStep = Callable[[int, Tensor], None]

LEAST_SIZE = 256  # least pixels across the views by default, which keeps detail of the input image
MAIN_PIECE = 0.1  # share of a generated silhouette's area; smaller detached pieces are dropped
SAME_ANGLE_DEG = 1e-3
INSIDE_CELLS = 96  # per side of the grid on which the prior says what is inside

PixelsAcross = Annotated[int, Range(16, 4096, or_zero=True)]
FrameRatio = Annotated[float, Range(0.1, 1)]


class GeneratedViews(ViewSource):
    """Base of sources that sample views of one object from a prior, for cameras around it.

    A subclass provides the cameras' angles and the sampler, and may have an input image. It may sample several sets of
    views to choose from. The prior's output is cached by the content of everything that determines it.
    """

    @dataclass
    class Config:
        prior: Annotated[ComponentSpec, "prior"]  # the diffusion model that generates the views
        steps: NonNegativeInt = 0  # denoising steps; 0: the prior's default
        guidance_scale: GuidanceScale = 0.0  # classifier-free guidance; 1: none; 0: the prior's default
        seed: Annotated[int, Range(0, 2**63 - 1)] = 0  # of the noise (and of a random orbit)
        resolution: PixelsAcross = 0  # pixels across the views, resized to it; 0: the prior's, at least 256
        matting: bool = False  # cut out views without masks by rembg, not by their white: for objects with white parts
        distance: Distance = 3.6  # of the cameras from the object's centre, world units: twice its longest side
        fov_deg: FovDeg = 33.8  # field of view of the cameras
        enhance: Annotated[ComponentSpec, "view-enhancer"] | None = None  # adds the input image's texture to the views
        maps: Annotated[ComponentSpec, "map-estimator"] | None = None  # estimates the depth and normals of the views
        held_out: bool = False  # use generated views for display and evaluation only, not for guidance
        cache: bool = True  # keep the prior's output for the next run ($LIFTSTUDIO_CACHE or ~/.cache/liftstudio)

        def __post_init__(self) -> None:
            if self.matting and not matting.installed():
                raise InputError(f"matting: rembg is not installed; {matting.INSTALL}")

    config: Config
    # Options that do not change the prior's output.
    not_deciding: ClassVar[frozenset[str]] = frozenset({"prior", "resolution", "enhance", "maps", "held_out", "cache"})

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config, self.device = config, device

    @property
    @abstractmethod
    def elevation_deg(self) -> float:
        """Elevation of the input image's camera, or, without one, of the views; degrees."""

    @abstractmethod
    def angles(self) -> Angles:
        """Return (azimuth_deg [T], elevation_deg [T]) of the views."""

    def sample(
        self,
        prior: Prior,
        posed: Any,
        cameras: Cameras,
        sigmas: Tensor,
        generator: torch.Generator,
        on_step: OnStep,
    ) -> Tensor:
        """Sample latents [T, *prior.latent_shape] of the views, on the prior's device; for K sets of views [K T, ...].

        All views are sampled together by Euler steps (DDIM without added noise), with `guidance_scales` and `estimate`,
        unless a subclass samples differently.

        posed: a `PosedImage`; None without an input image.
        sigmas: [steps + 1] descending noise levels, from the prior.
        generator: on the CPU, so that all devices draw the same noise.
        on_step: called after each step with its number from 0 and the latents, as by the samplers.
        """
        condition, scales = prior.condition(posed), self.guidance_scales(prior, cameras).to(cameras.device)
        noise = torch.randn(len(cameras), *prior.latent_shape, generator=generator).to(cameras.device)

        def denoise(latents: Tensor, sigma: float) -> Tensor:
            return self.estimate(prior, NoisyViews(latents, sigma, condition, cameras, scales))

        return euler(denoise, noise, sigmas, on_step)

    def guidance_scales(self, prior: Prior, cameras: Cameras) -> Tensor:
        """Return the classifier-free guidance scale of each of T views, [T]: the same for all."""
        return torch.full((len(cameras),), self.config.guidance_scale or prior.guidance_scale)

    def estimate(self, prior: Prior, noisy: NoisyViews[Any]) -> Tensor:
        """Return the prior's estimate of the clean latents [T, ...] of all views together; see `Prior.denoise`."""
        return prior.denoise(noisy)

    def suited_steps(self, prior: Prior) -> int:
        """Return the prior's default number of denoising steps for this source's sampler."""
        return prior.steps

    def check(self) -> None:
        """See `ViewSource.check`: the weights, unless they are to be downloaded."""
        check_weights(self.config.prior)

    def input_image(self) -> InputImage | None:
        """Return the input image, if there is one."""
        return None

    def settle(self, picture: Any) -> None:
        """Give options that depend on the input image their values; called before anything else that reads them."""

    def posed_image(self, picture: Any, resolution: int) -> PosedImage | None:
        """Return the input image as the prior sees it, on the source's device."""
        return None

    def with_others(self, views: ReferenceViews, picture: Any) -> ReferenceViews:
        """Return the views with any further input images appended."""
        return views

    def load(self) -> ReferenceViews:
        """Return the views, newly generated or from the cache.

        Raises:
            InputError: the input image, the weights, the cameras or a plug-in are invalid; raised before the sampling.
        """
        picture = self.input_image()
        self.settle(picture)
        if self.config.enhance is not None and picture is None:
            raise InputError("enhance: there is no input image to enhance the views by")
        enhancer: ViewEnhancer | None = self._plug_in(self.config.enhance)
        estimator: MapEstimator | None = self._plug_in(self.config.maps)
        self._say_which_prior()
        prior = resolve(self.config.prior)
        if picture is not None and picture.others and not prior.cls.takes_several:
            raise InputError(
                f"images: the prior '{prior.block.type}' makes views from one image; give image=..., or a prior that "
                "takes several: prior.weights=asset://priors/objects or asset://priors/toys"
            )
        frames = self._cached(prior, picture) if self.config.cache else self._make(prior, picture)
        images, masks = (frames[name].float() / 255 for name in ("images", "masks"))
        views = self.with_others(_without_empty(self.assemble(images, masks, picture)), picture)
        views = replace(views, inside=frames["inside"])
        if enhancer is not None:
            views = self._enhanced(views, enhancer, self._own_view(images, masks, picture))
        if self.config.held_out:
            if not views.input_views and picture is not None:
                raise InputError(
                    "held_out: the input image is not one of the views, so no view would be left to train on"
                )
            held_out = [index not in views.input_views for index in range(len(views))]
            views = replace(views, held_out=torch.tensor(held_out))
        if estimator is not None:
            views = replace(views, **self._derived("view-maps", estimator, views, lambda: estimator.maps(views)))
        return views

    def _cached(self, prior: ResolvedPrior, picture: InputImage | None) -> dict[str, Any]:
        """Return the result of `_make`, from the cache if it is there, and repeat the warnings that it caused."""
        now: list[str] = []

        def make() -> dict[str, Any]:
            with kept_warnings() as warnings:
                frames = self._make(prior, picture)
            now.extend(warnings)
            return frames | {"warnings": warnings}

        frames = cached("views", self._key(prior, picture), make)
        for warning in frames["warnings"]:
            if warning not in now:
                log.warning("%s", warning)
        return frames

    def _plug_in(self, block: ComponentSpec | None) -> Any:
        return None if block is None else block.build(device=self.device)

    def _own_view(self, images: Tensor, masks: Tensor, picture: Any) -> Tensor:
        """Return the prior's own view from the input camera, [R, R, 4]; see `ViewEnhancer.repaint`."""
        index = self._input_view()
        return torch.cat(picture.frame(images.shape[1]) if index is None else (images[index], masks[index]), dim=-1)

    def _enhanced(self, views: ReferenceViews, enhancer: ViewEnhancer, own: Tensor) -> ReferenceViews:
        """Return the views with the enhancer's colours."""
        if not views.input_views:
            raise InputError("enhance: the input image is not one of the views, so it cannot enhance the others")

        def make() -> dict[str, Any]:
            return {"colors": _quantized(enhancer.repaint(views, own))}

        return with_colors(views, self._derived("enhanced-views", enhancer, views, make, own)["colors"].float() / 255)

    def _derived(
        self, kind: str, plug_in: ViewPlugIn, views: ReferenceViews, make: Callable[[], dict[str, Any]], *inputs: Tensor
    ) -> dict[str, Any]:
        """Return what a plug-in computes from the views and further `inputs`, by `make` or from the cache."""
        key = {
            "version": __version__,
            "plug-in": plug_in.fingerprint(),
            "views": [_digest(tensor) for tensor in (views.images, views.masks, views.cameras.c2w, *inputs)],
            "input_views": views.input_views,
            "held_out": views.held_out.tolist(),
        }
        return cached(kind, content_key(key), make) if self.config.cache else make()

    def _say_which_prior(self) -> None:
        weights = self.config.prior.options.weights
        log.info("views: prior %s", weights)
        if weights.startswith(SCHEME):
            log.info("views: this is the small bundled prior; it stands in for the official network of the method")

    def _key(self, prior: ResolvedPrior, picture: InputImage | None) -> str:
        """Return a cache key of everything that determines the prior's output."""
        options = {k: v for k, v in to_plain(self.config).items() if k not in self.not_deciding}
        return content_key(
            {
                "version": __version__,
                "source": type(self).__qualname__,
                "options": options,
                "angles": [_digest(angles) for angles in self.angles()],
                "prior": {k: v for k, v in to_plain(prior.block).items() if k not in ("weights", "chunk")},
                "weights": prior.fingerprint(),
                "picture": picture and [_digest(tensor) for tensor in (picture.rgb, picture.alpha)],
                "others": picture
                and [
                    [other.azimuth_deg, *(_digest(tensor) for tensor in (other.image.rgb, other.image.alpha))]
                    for other in picture.others
                ],
            }
        )

    def _make(self, resolved: ResolvedPrior, picture: InputImage | None) -> dict[str, Any]:
        """Generate images [K T, R, R, 3] over white and masks [K T, R, R, 1] at the prior's resolution, uint8.

        They come with `inside`, see `ReferenceViews`.
        """
        resolved.check_count(len(self.angles()[0]))
        prior = resolved.load(self.device)
        if prior.takes_image and picture is None:
            raise InputError(f"prior: {prior.name} makes views from an input image, but there is none")
        if picture is not None and not prior.takes_image:
            raise InputError(f"prior: {prior.name} makes views from text alone, but there is an input image")
        cameras, posed = self._cameras(prior.resolution), self.posed_image(picture, prior.resolution)
        prior.check_cameras(cameras if posed is None else posed.camera, cameras)
        generator = torch.Generator().manual_seed(self.config.seed)
        with torch.no_grad(), WorkProgress("views") as progress:
            steps = self.config.steps or self.suited_steps(prior)
            progress(f"{len(cameras)} by {prior.name}, {steps} steps", 0.0)
            sigmas = prior.sigmas(steps)
            on_step = _shown_on(progress, steps)
            latents = self.sample(prior, posed, cameras.to(self.device), sigmas, generator, on_step)
            images, masks = prior.decode(latents)
        if masks is None:
            masks = torch.stack([silhouette(image.cpu(), self.config.matting) for image in images])
        elif self.config.matting:
            log.warning("views.matting: not used, since %s makes masks itself", prior.name)
        return {"images": _quantized(images), "masks": _quantized(masks), "inside": _inside(prior, posed)}

    def assemble(self, images: Tensor, masks: Tensor, picture: Any) -> ReferenceViews:
        """Return the views at the requested resolution; an input image among them keeps its full detail.

        images [T, R, R, 3] over white and masks [T, R, R, 1] are the prior's output; for K sets [K T, ...].
        """
        size = self.config.resolution or max(images.shape[1], LEAST_SIZE)
        frames = torch.cat([images, masks], dim=-1)
        if size != images.shape[1]:
            frames = torch.stack([resize_lanczos(frame, size, size).clamp(0, 1) for frame in frames])
        input_view = self._input_view()
        if input_view is not None:
            frames[input_view] = torch.cat(picture.frame(size), dim=-1)
        count = len(frames)
        return ReferenceViews(
            images=straight_from_white(frames[..., :3], frames[..., 3:]),
            masks=frames[..., 3:].contiguous(),
            cameras=self._cameras(size),
            names=tuple(f"{index:03d}.png" for index in range(count)),
            held_out=torch.zeros(count, dtype=torch.bool),
            input_views=() if input_view is None else (input_view,),
        )

    def _cameras(self, size: int) -> Cameras:
        return orbit_cameras(*self.angles(), self.config.distance, self.config.fov_deg, size, size)

    def _input_view(self) -> int | None:
        """Return the index of the view that is the input image itself, if any."""
        return None


class PriorViews(GeneratedViews):
    """Views of the object in one input image.

    If a subclass has a view at azimuth 0 and the input image's elevation, that view is the input image itself. A
    subclass may frame the input image in its own way.
    """

    @dataclass(kw_only=True)
    class Config(GeneratedViews.Config):
        image: str = ""  # input image: RGBA, or an opaque photograph that the object is cut out of
        images: dict[str, str] = field(default_factory=dict)  # or several, by label: front, left, ... or degrees
        image_box: tuple[int, int, int, int] | None = None  # left, top, right, bottom of the object in `image`, pixels
        elevation_deg: ElevationDeg | Literal["auto"] = "auto"  # of the input image's camera; auto: estimated from it
        recenter: bool = True  # frame the object's bounding box; false: the whole image
        frame_ratio: FrameRatio = FRAME_RATIO  # share of the frame that the longer side of the box takes

        def __post_init__(self) -> None:
            super().__post_init__()
            if bool(self.image) == bool(self.images):
                given = "both given" if self.image else "both missing"
                raise InputError(
                    f"image, images: {given}; give image=... or images.front=... images.back=... and others"
                )
            check_labels(self.images)
            if self.images and self.image_box is not None:
                raise InputError("image_box: is for a single image; crop the pictures of images to the object instead")

    config: Config
    not_deciding = GeneratedViews.not_deciding | {"image", "images", "image_box"}
    elevation_range_deg: ClassVar[tuple[float, float]] = (-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG)  # that it takes
    elevation_estimate: ElevationEstimate | None = None  # if the input image's elevation was to be estimated

    def check(self) -> None:
        """See `ViewSource.check`: the pictures' heads and the box, then the weights."""
        config = self.config
        for label, file in config.images.items():
            with naming_label(label):
                image_size(input_path(file))
        if config.image:
            size = image_size(input_path(config.image))
            if config.image_box is not None:
                checked_box(input_path(config.image), config.image_box, *size)
        super().check()

    def load(self) -> ReferenceViews:
        """See `GeneratedViews.load`."""
        views, found = super().load(), self.elevation_estimate
        return views if found is None else replace(views, elevation_estimate=(found.elevation_deg, found.error_deg))

    def settle(self, picture: InputImage) -> None:
        """Estimate the elevation if it is to be; log it."""
        if self.config.elevation_deg == "auto":
            self.elevation_estimate = estimate_elevation(picture, self.elevation_range_deg)
            self.config = replace(self.config, elevation_deg=self.elevation_estimate.elevation_deg)
        else:
            elevation = f"{self.elevation_deg:g} degrees"
            log.info("views: assuming that the input image is from an elevation of %s (views.elevation_deg)", elevation)

    @property
    def elevation_deg(self) -> float:
        """Elevation of the input image's camera, degrees; an estimated one is known after `settle`."""
        assert self.config.elevation_deg != "auto", "settle first"
        return self.config.elevation_deg

    def input_image(self) -> InputImage:
        """Return the input image, framed as the options say; with any others where their labels place them."""
        config = self.config

        def read(file: str) -> InputImage:
            path, box = input_path(file), config.image_box
            return load_input_image(path, box=box, recenter=config.recenter, frame_ratio=config.frame_ratio)

        if not config.images:
            return read(config.image)
        return load_labelled(config.images, read, config.frame_ratio if config.recenter else None)

    def conditioning_image(self, picture: InputImage, resolution: int) -> tuple[Tensor, Tensor]:
        """Return what the prior sees of the input image: image [R, R, 3] over white and mask [R, R, 1], in [0, 1]."""
        return picture.frame(resolution)

    def posed_image(self, picture: InputImage, resolution: int) -> PosedImage:
        """Return the `conditioning_image` with its camera; several images are framed alike instead."""
        if not picture.others:
            return self._posed(*self.conditioning_image(picture, resolution), self._input_camera(resolution))
        others = (
            self._posed(*other.image.frame(resolution), self._camera_of(other, resolution)) for other in picture.others
        )
        first = self._posed(*picture.frame(resolution), self._input_camera(resolution))
        return replace(first, others=tuple(others))

    def _posed(self, image: Tensor, mask: Tensor, camera: Cameras) -> PosedImage:
        return PosedImage(image.to(self.device), mask.to(self.device), camera.to(self.device))

    def with_input_image(self, views: ReferenceViews, picture: InputImage) -> ReferenceViews:
        """Return the views with the input image appended, unless it is one of them already."""
        if views.input_views:
            return views
        return _with_input(views, picture, self._input_camera(views.cameras.width))

    def with_others(self, views: ReferenceViews, picture: InputImage) -> ReferenceViews:
        """Return the views with the further input images appended."""
        for other in picture.others:
            views = _with_input(views, other.image, self._camera_of(other, views.cameras.width))
        return views

    def _camera_of(self, other: PlacedImage, size: int) -> Cameras:
        return turned(self._input_camera(size), other.azimuth_deg)

    def _input_camera(self, size: int) -> Cameras:
        angles = torch.zeros(1), torch.full((1,), self.elevation_deg)
        return orbit_cameras(*angles, self.config.distance, self.config.fov_deg, size, size)

    def _input_view(self) -> int | None:
        """Return the index of the view with the input image's angles, if any."""
        azimuth_deg, elevation_deg = self.angles()
        turn = torch.remainder(azimuth_deg + 180, 360) - 180
        same = torch.maximum(turn.abs(), (elevation_deg - self.elevation_deg).abs()) < SAME_ANGLE_DEG
        return int(same.nonzero()[-1]) if same.any() else None


def _with_input(views: ReferenceViews, picture: InputImage, camera: Cameras) -> ReferenceViews:
    """Return the views with an input image appended, seen by `camera`."""
    size, count = views.cameras.width, len(views)
    image, mask = (frame[None] for frame in picture.frame(size))
    return replace(
        views,
        images=torch.cat([views.images, straight_from_white(image, mask)]),
        masks=torch.cat([views.masks, mask]),
        cameras=concatenate([views.cameras, camera]),
        names=(*views.names, f"{count:03d}.png"),
        held_out=torch.zeros(count + 1, dtype=torch.bool),
        input_views=(*views.input_views, count),
    )


def silhouette(image: Tensor, by_matting: bool = False) -> Tensor:
    """Return the mask [R, R, 1] of a generated image [R, R, 3] over white, by that white or by the matting extra."""
    alpha = matting.cut_out(image.float().clamp(0, 1))[1] if by_matting else alpha_before(image, torch.ones(3))
    return main_pieces(alpha, MAIN_PIECE)[0]


def _quantized(images: Tensor) -> Tensor:
    """Quantize images to 8 bits as in a PNG, so that the cache, the views' folder and the run have the same values."""
    return (images.cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)


def _inside(prior: Prior, posed: PosedImage | None) -> Tensor | None:
    """Return what the prior says is inside, as `ReferenceViews` stores it."""
    if posed is None:
        return None
    axis = (2 * torch.arange(INSIDE_CELLS) + 1) / INSIDE_CELLS - 1
    inside = prior.inside(posed, torch.cartesian_prod(axis, axis, axis))
    return None if inside is None else inside.float().cpu().reshape([INSIDE_CELLS] * 3)


def _shown_on(progress: WorkProgress, steps: int) -> OnStep:
    """Return a callback that advances `progress` at every step; the text, which may be logged, changes ten times."""

    def show(step: int, latents: Tensor) -> None:
        share = (step + 1) / steps
        progress(f"sampled {10 * int(10 * share)} %", share)

    return show


def not_empty(views: ReferenceViews) -> Tensor:
    """Return [V] bool: whether each view shows anything."""
    return (views.masks > FOREGROUND).flatten(1).any(1)


def _without_empty(views: ReferenceViews) -> ReferenceViews:
    """Return the views that show anything.

    Raises:
        InputError: all views other than the input images are empty.
    """
    seen = not_empty(views)
    generated = [index for index in range(len(views)) if index not in views.input_views]
    if not seen[generated].any():
        raise InputError("views: all generated views are empty; try another views.seed, or another views.elevation_deg")
    if bool(seen.all()):
        return views
    empty = [name for name, shown in zip(views.names, seen.tolist(), strict=True) if not shown]
    log.warning("views: left out because they are empty: %s", ", ".join(empty))
    return views.select(seen.nonzero().flatten())


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
