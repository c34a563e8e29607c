"""The interface of all diffusion priors."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

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


class Estimates(NamedTuple):
    """Estimates of x0 [T, *latent_shape] by what the network is shown; see `classifier_free.decomposed`.

    everything: picture and noisy views.
    views:      the noisy views alone.
    reference:  the picture alone (the network may still see each view's own noisy latents).
    """

    everything: Tensor
    views: Tensor
    reference: Tensor


class Prior(Component):
    """A diffusion model of the views of one object: x0 = denoise(x0 + sigma * noise, sigma, ...).

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
    takes_picture: bool = True  # else it makes objects of text alone, and its image prompt is None
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

        posed: None for a prior that `takes_picture` not.
        """

    @abstractmethod
    def denoise(
        self,
        latents: Tensor,
        sigma: float,
        condition: Any,
        cameras: Cameras,
        guidance_scale: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The estimate of x0 [T, *latent_shape] from noisy latents [T, *latent_shape] of T views; no gradient.

        guidance_scale: [T] classifier-free guidance per frame, u + g (c - u); None: the conditional estimate alone; 0
            everywhere: the unconditional one alone.
        wanted: [T, h, w] bool, where the estimate is used: a prior that gains by it leaves out the rest; None: all.
        """

    def denoise_separately(self, latents: Tensor, sigma: float, condition: Any, cameras: Cameras) -> Estimates:
        """Estimates as those of `denoise`, with and without the picture and the other views; no gradient.

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
