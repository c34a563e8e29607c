"""The bundled prior behind the interface of all priors."""

import dataclasses
import json

import torch
from torch import Tensor

from liftstudio.cameras import Cameras, turned
from liftstudio.config import parse
from liftstudio.errors import InputError
from liftstudio.priors.base import Estimates, ImagePrompt, Prior
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.precision import compute_dtype
from liftstudio.priors.toys.network import Picture, Size, ToysNetwork, projections, render_images
from liftstudio.priors.weights import Weights, load_module, open_weights
from liftstudio.registry import register

SAMPLES = 40  # per ray
SIGMA_MAX = 80.0
SIGMA_MIN = 0.05
RESOLUTION = 64
# Of the pictures it was trained on, degrees, least and most; the picture's azimuth is from the object's front, which is
# at azimuth 0 where that is known.
TRAINED_FOV_DEG = (25.0, 50.0)
TRAINED_AZIMUTH_DEG, TRAINED_ELEVATION_DEG = (-46.0, 46.0), (-10.0, 40.0)


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the network makes of the picture, once for all steps.

    It was trained in the frame where the picture is at azimuth 0, and all cameras are turned into that.

    azimuth_deg: of the picture's camera, in the run's world.
    """

    picture: Picture
    azimuth_deg: float


@register("toys")
class ToysPrior(Prior):
    """Toy figures at any cameras: the small bundled prior that stands in for large ones."""

    name = "toys (bundled)"
    resolution = RESOLUTION
    latent_shape = (4, RESOLUTION, RESOLUTION)
    sigma_min, sigma_max = SIGMA_MIN, SIGMA_MAX
    frames = 0
    steps = 12
    ancestral_steps = 2  # a small network guesses means better than samples, and few steps stay near the mean
    decomposed_scales = (0.1, 0.1)  # all guidance costs it accuracy, these 0.7 dB

    def __init__(self, config: Prior.Config, *, device: torch.device) -> None:
        self.config, self.device = config, device
        weights = open_weights(config.weights)
        if not self.recognizes(weights):
            raise InputError(f"{weights.path}: these are not weights of the prior 'toys'")
        with torch.device("meta"):
            network = ToysNetwork(read_size(weights))
        load_module(network, weights, {}, torch.float32, device)
        self.network = network
        self.network.make_grid(device)
        self.network.dtype = compute_dtype(config.precision, device)

    @classmethod
    def around(cls, network: ToysNetwork) -> "ToysPrior":
        """The prior of a network that is being trained."""
        prior = cls.__new__(cls)
        prior.config, prior.network, prior.device = cls.Config(""), network, network.grid.device
        return prior

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        """By the note that training writes into the file."""
        return weights.metadata.get("prior") == "toys"

    def check_cameras(self, prompt_camera: Cameras, cameras: Cameras) -> None:
        """Any cameras will do; warns of lenses, and of places of the picture's camera, that are new to it."""
        fov_deg = torch.cat([one.fov_deg.cpu() for one in (prompt_camera, cameras)])
        self.warn_beyond("field of view", fov_deg, TRAINED_FOV_DEG)
        self.warn_beyond("elevation of the picture", prompt_camera.elevation_deg, TRAINED_ELEVATION_DEG)
        azimuth_deg = torch.remainder(prompt_camera.azimuth_deg + 180, 360) - 180
        self.warn_beyond("azimuth of the picture", azimuth_deg, TRAINED_AZIMUTH_DEG)

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """Pixels are the latents: see `Prior.encode`."""
        return (2 * torch.cat([images, masks], dim=-1) - 1).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """See `Prior.decode`."""
        pixels = (latents.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
        return pixels[..., :3], pixels[..., 3:]

    @torch.no_grad()
    def condition(self, prompt: ImagePrompt) -> Condition:
        """See `Prior.condition`."""
        pixels, azimuth_deg = self.encode(prompt.image[None], prompt.mask[None]), float(prompt.camera.azimuth_deg)
        camera = turned(prompt.camera.to(self.device), -azimuth_deg)
        return Condition(self.network.look(pixels.to(self.device), projections(camera)), azimuth_deg)

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        sigma: float,
        condition: Condition,
        cameras: Cameras,
        guidance_scale: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """See `Prior.denoise`; the result is a rendering, so its views agree."""
        if guidance_scale is None or bool((guidance_scale == 1).all()):
            return self._estimate(latents, sigma, condition, cameras, wanted)
        unconditional = self._estimate(latents, sigma, condition, cameras, wanted, has_image=False)
        if bool((guidance_scale == 0).all()):
            return unconditional
        return guided(self._estimate(latents, sigma, condition, cameras, wanted), unconditional, guidance_scale)

    @torch.no_grad()
    def denoise_separately(self, latents: Tensor, sigma: float, condition: Condition, cameras: Cameras) -> Estimates:
        """See `Prior.denoise_separately`; from the picture alone, the estimate is the same at all noise levels."""
        return Estimates(
            self._estimate(latents, sigma, condition, cameras),
            self._estimate(latents, sigma, condition, cameras, has_image=False),
            self._estimate(latents, SIGMA_MAX, condition, cameras, has_views=False),  # as it was trained
        )

    def _estimate(
        self,
        latents: Tensor,
        sigma: float,
        condition: Condition,
        cameras: Cameras,
        wanted: Tensor | None = None,
        *,
        has_image: bool = True,
        has_views: bool = True,
    ) -> Tensor:
        cameras = turned(cameras.to(self.device), -condition.azimuth_deg).resized(self.resolution, self.resolution)
        yes = torch.ones(1, dtype=torch.bool, device=self.device)
        level = torch.full((1,), sigma, device=self.device)
        lifted = self.network.lift(
            condition.picture,
            latents[None],
            projections(cameras)[None],
            level,
            yes & has_image,
            yes & has_views,
        )
        return render_images(self.network, lifted, cameras, SAMPLES, wanted)


def describe(size: Size) -> dict[str, str]:
    """The notes of a weight file."""
    return {"prior": "toys", "size": json.dumps(dataclasses.asdict(size))}


def read_size(weights: Weights) -> Size:
    """What `describe` noted.

    Raises:
        InputError: the note is missing or not a size.
    """
    try:
        return parse(json.loads(weights.metadata["size"]), Size)
    except (KeyError, ValueError, InputError):
        raise InputError(f"{weights.path}: its note 'size' does not describe the network 'toys'") from None
