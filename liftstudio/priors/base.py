"""The interface of diffusion priors."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import NonNegativeInt
from liftstudio.core.registry import Component
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area
from liftstudio.priors.samplers import euler, karras_sigmas

SAME_DEG = 0.1  # angles closer than this count as equal

Condition = TypeVar("Condition")  # a prior's encoding of the image it is conditioned on


@dataclass(frozen=True)
class PosedImage:
    """The input image a prior is conditioned on, with its camera; or several of one object.

    image:  [R, R, 3] float32 sRGB in [0, 1], composited over white; R is the prior's resolution.
    mask:   [R, R, 1] float32 alpha in [0, 1].
    camera: the one camera it was taken with, in the run's world.
    grey:   background in [0, 1] to show instead of white, for a prior that `knows_backgrounds`.
    others: further images of the same object, for a prior that `takes_several`; any other prior ignores them.
    """

    image: Tensor
    mask: Tensor
    camera: Cameras
    grey: float = 1.0
    others: tuple["PosedImage", ...] = ()


@dataclass(frozen=True)
class NoisyViews(Generic[Condition]):
    """T noisy views of one object, and the conditions to denoise them under.

    latents:        [T, *latent_shape] float32, x0 + sigma * eps.
    sigma:          their common noise level, above 0.
    condition:      the result of `Prior.condition`.
    cameras:        those of the T views.
    guidance_scale: [T] classifier-free guidance g of each view, u + g (c - u); None: only the conditional estimate c;
                    all 0: only the unconditional estimate u.
    wanted:         [T, h, w] bool, where the estimate is used; a prior may skip the rest to save time; None: everywhere
    """

    latents: Tensor
    sigma: float
    condition: Condition
    cameras: Cameras
    guidance_scale: Tensor | None = None
    wanted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, views: slice) -> Self:
        """Select some of the views."""
        scale, wanted = (None if each is None else each[views] for each in (self.guidance_scale, self.wanted))
        latents, cameras = self.latents[views], self.cameras[views]
        return replace(self, latents=latents, cameras=cameras, guidance_scale=scale, wanted=wanted)


class Estimates(NamedTuple):
    """Estimates of x0 [T, *latent_shape] under different conditions (Woo et al. 2024, "HarmonyView").

    everything: from the input image and the noisy views.
    views:      from the noisy views alone.
    reference:  from the input image alone (the network may still see each view's own noisy latents).
    """

    everything: Tensor
    views: Tensor
    reference: Tensor


class Prior(Component):
    """A diffusion model of the views of one object: it estimates x0 from x0 + sigma * eps.

    All priors use the variance-exploding form: latents z = x0 + sigma * eps, eps ~ N(0, 1), sigma > 0. A model trained
    with another parameterization converts internally (`priors.parameterization`).
    A prior is frozen: it gets no gradients and is not stored in the run's checkpoints.
    """

    kind: ClassVar[str] = "prior"
    published: ClassVar[str] = ""  # where the official weights are published, and under which licence

    @dataclass
    class Config:
        weights: str  # file or folder with the weights; asset://priors/toys is the bundled prior
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the network; auto: by the device
        chunk: NonNegativeInt = 0  # frames to encode or decode at once; lower it to save memory; 0: the prior's default

    name: str  # for logs
    device: torch.device  # where its networks are
    resolution: int  # pixels across its square images
    latent_shape: tuple[int, int, int]  # channels, height, width of one frame's latents
    sigma_min: float  # lowest noise level it was trained for
    sigma_max: float  # highest one
    frames: int  # number of views it denoises together; 0: any number
    steps: int = 50  # default number of denoising steps
    ancestral_steps: int | None = None  # the same for ancestral sampling; none: as many
    guidance_scale: float = 1.0  # default scale of classifier-free guidance
    decomposed_scales: tuple[float, float] = (2.0, 1.0)  # default scales of decomposed guidance
    encoder_chunk: ClassVar[int] = 3  # default number of frames that guidance encodes with gradients at once
    takes_several: ClassVar[bool] = False  # whether `condition` uses several input images of an object
    any_elevation: bool = True  # whether views may be at other elevations than the input image
    takes_image: bool = True  # else it generates from text alone, and `condition` gets None
    knows_backgrounds: bool = False  # whether input image and views may be over any grey; else they are over white

    @classmethod
    @abstractmethod
    def recognizes(cls, weights: Weights) -> bool:
        """Return whether these are weights of this prior, judged by names and shapes."""

    @classmethod
    def check_count(cls, weights: Weights, count: int) -> None:
        """Raise an InputError if the file shows, before loading, that these weights do not make `count` views."""

    @abstractmethod
    def __init__(self, config: Config, *, device: torch.device) -> None:
        """Load the weights.

        Raises:
            InputError: missing or damaged weights, or weights of another model.
        """

    @abstractmethod
    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Raise an InputError for cameras that this prior does not support."""

    def warn_beyond(self, name: str, angles_deg: Tensor, trained_deg: tuple[float, float]) -> None:
        """Log a warning if angles [T] are outside the range (least, most) that this prior was trained for."""
        (least, most), (low, high) = (angle.item() for angle in angles_deg.aminmax()), trained_deg
        if least < low - SAME_DEG or most > high + SAME_DEG:
            trained = f"{self.name} was trained for {low:g} to {high:g} degrees"
            log.warning("%s: %.4g to %.4g degrees; %s", name, least, most, trained)

    @abstractmethod
    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """Encode images [T, R, R, 3] over white with masks [T, R, R, 1] to latents [T, *latent_shape]; differentiable.

        Frames are independent of one another, so callers may split them into chunks.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode latents to images [T, R, R, 3] in [0, 1] over white and masks [T, R, R, 1] (None: it makes none)."""

    @abstractmethod
    def condition(self, posed: Any) -> Any:
        """Encode the `PosedImage` for `denoise`, once for all steps and cameras.

        posed: None for a prior without `takes_image`.
        """

    @abstractmethod
    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        """Return the estimate of x0 [T, *latent_shape]; no gradient."""

    @torch.no_grad()
    def sample(
        self, posed: PosedImage, cameras: Cameras, *, steps: int = 0, seed: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Return views of the object in an image, sampled by Euler steps: images and masks as `decode` has them.

        Args:
            posed: of any size.
            cameras: of the views, of any size.
            steps: number of noise levels; 0: this prior's default.
            seed: of the noise.

        Raises:
            InputError: cameras that this prior does not support.
        """
        size, count = self.resolution, len(cameras)
        seen, mask = (resize_area(each, size, size).to(self.device) for each in (posed.image, posed.mask))
        given = replace(posed, image=seen, mask=mask, camera=posed.camera.resized(size, size).to(self.device))
        around = cameras.resized(size, size).to(self.device)
        self.check_cameras(given.camera, around)
        condition, scales = self.condition(given), torch.full((count,), self.guidance_scale, device=self.device)
        noise = torch.randn(count, *self.latent_shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

        def denoise(latents: Tensor, sigma: float) -> Tensor:
            return self.denoise(NoisyViews(latents, sigma, condition, around, scales))

        return self.decode(euler(denoise, noise, self.sigmas(steps or self.steps)))

    def denoise_separately(self, noisy: NoisyViews[Any]) -> Estimates:
        """Return estimates as of `denoise`, with and without the input image and the other views; no gradient.

        The guidance scale is not used.

        Raises:
            InputError: this prior was not trained to do without either of them.
        """
        raise InputError(f"{self.name} has no estimates from the input image alone and from the views alone")

    def inside(self, posed: PosedImage, points: Tensor) -> Tensor | None:
        """Return how sure this prior is that points [N, 3] in the run's world are inside (1) or outside (-1), [N].

        It judges from the input image alone; no gradient. None: this prior knows views but no volume.
        """
        return None

    def sigmas(self, steps: int) -> Tensor:
        """Return [steps + 1] descending noise levels for a sampler; the last is that of the result.

        Raises:
            InputError: an impossible number of steps.
        """
        return karras_sigmas(steps, self.sigma_min, self.sigma_max)
