"""The interface of all diffusion priors."""

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
from liftstudio.priors.samplers import karras_sigmas

SAME_DEG = 0.1  # angles closer than this are the same

Condition = TypeVar("Condition")  # what a prior makes of the image it is conditioned on


@dataclass(frozen=True)
class PosedImage:
    """The picture a prior is conditioned on.

    image:  [R, R, 3] float32 sRGB in [0, 1] over white, R = the prior's resolution.
    mask:   [R, R, 1] float32 alpha in [0, 1].
    camera: the one camera it was taken with, in the run's world.
    grey:   0 to 1, what is to be seen behind it instead of white, by a prior that `knows_backgrounds`.
    """

    image: Tensor
    mask: Tensor
    camera: Cameras
    grey: float = 1.0


@dataclass(frozen=True)
class NoisyViews(Generic[Condition]):
    """T noisy views of one object, and what a prior is told to denoise them by.

    latents:        [T, *latent_shape] float32, x0 + sigma * eps.
    sigma:          the noise level of all of them, above 0.
    condition:      what `Prior.condition` returned.
    cameras:        of the T views.
    guidance_scale: [T] classifier-free guidance g of each view, u + g (c - u); None: the conditional estimate c alone;
                    0 everywhere: the unconditional estimate u alone.
    wanted:         [T, h, w] bool, where the estimate is used: a prior that gains by it leaves out the rest; None: all.
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
        """Some of the views."""
        scale, wanted = (None if each is None else each[views] for each in (self.guidance_scale, self.wanted))
        latents, cameras = self.latents[views], self.cameras[views]
        return replace(self, latents=latents, cameras=cameras, guidance_scale=scale, wanted=wanted)


class Estimates(NamedTuple):
    """Estimates of x0 [T, *latent_shape] by what the network is shown (Woo et al. 2024, "HarmonyView").

    everything: picture and noisy views.
    views:      the noisy views alone.
    reference:  the picture alone (the network may still see each view's own noisy latents).
    """

    everything: Tensor
    views: Tensor
    reference: Tensor


class Prior(Component):
    """A diffusion model of the views of one object: it estimates x0 from x0 + sigma * eps.

    All priors speak of noise in one way: latents z = x0 + sigma * eps, eps ~ N(0, 1), sigma > 0 ("variance
    exploding"). A model trained with other scalings converts inside (`priors.parameterization`).
    It is not a part of the run: never in its checkpoints, no gradients to its weights.
    """

    kind: ClassVar[str] = "prior"
    published: ClassVar[str] = ""  # where the official weights are found and under which licence

    @dataclass
    class Config:
        weights: str  # file or folder with the weights; asset://priors/toys is the bundled prior
        precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the network; auto: what suits device
        chunk: NonNegativeInt = 0  # frames encoded or decoded at once; lower it to save memory; 0: the prior's choice

    name: str  # for logs: which prior is at work
    resolution: int  # pixels across its square images
    latent_shape: tuple[int, int, int]  # channels, height, width of one frame's latents
    sigma_min: float  # noise levels it was trained for
    sigma_max: float
    frames: int  # views it denoises together; 0: any number
    steps: int = 50  # denoising steps that suit it
    ancestral_steps: int | None = None  # the same where every step brings new noise; none: as many
    guidance_scale: float = 1.0  # classifier-free guidance that suits it
    decomposed_scales: tuple[float, float] = (2.0, 1.0)  # of decomposed guidance that suit it
    takes_image: bool = True  # else it makes objects of text alone, and its image prompt is None
    knows_backgrounds: bool = False  # whether pictures and views may be over any grey; else they are over white

    @classmethod
    @abstractmethod
    def recognizes(cls, weights: Weights) -> bool:
        """Whether these are weights of this prior, by their names and shapes."""

    @classmethod
    def check_count(cls, weights: Weights, count: int) -> None:
        """Raise an InputError for weights that tell, before they are loaded, that they do not make `count` views."""

    @abstractmethod
    def __init__(self, config: Config, *, device: torch.device) -> None:
        """Load the weights.

        Raises:
            InputError: missing, damaged or foreign weights.
        """

    @abstractmethod
    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Raise an InputError for cameras that this prior cannot be asked about."""

    def warn_beyond(self, name: str, angles_deg: Tensor, trained_deg: tuple[float, float]) -> None:
        """Warn of angles [T] beyond the least and most that this prior was trained for."""
        (least, most), (low, high) = (angle.item() for angle in angles_deg.aminmax()), trained_deg
        if least < low - SAME_DEG or most > high + SAME_DEG:
            trained = f"{self.name} was trained for {low:g} to {high:g} degrees"
            log.warning("%s: %.4g to %.4g degrees; %s", name, least, most, trained)

    @abstractmethod
    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """Latents [T, *latent_shape] of images [T, R, R, 3] over white, with masks [T, R, R, 1]; differentiable.

        Frames are independent of one another, so that callers may chunk.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [T, R, R, 3] over white in [0, 1] and masks [T, R, R, 1] (None: the prior knows none)."""

    @abstractmethod
    def condition(self, posed: Any) -> Any:
        """What `denoise` needs of the `PosedImage`: encoded once, used for every step and all cameras.

        posed: None for a prior without `takes_image`.
        """

    @abstractmethod
    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        """The estimate of x0 [T, *latent_shape]; no gradient."""

    def denoise_separately(self, noisy: NoisyViews[Any]) -> Estimates:
        """Estimates as those of `denoise`, with and without the picture and the other views; no gradient.

        The guidance scale is not used.

        Raises:
            InputError: this prior has not learned to do without either of them.
        """
        raise InputError(f"{self.name} has no estimates from the picture alone and from the views alone")

    def sigmas(self, steps: int) -> Tensor:
        """[steps + 1] descending noise levels that suit a sampler of so many steps; the last is the result's.

        Raises:
            InputError: a number of steps that cannot be.
        """
        return karras_sigmas(steps, self.sigma_min, self.sigma_max)
