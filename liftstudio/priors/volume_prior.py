"""The base of the bundled priors: latents are pixels, and x0 is rendered from a volume that the network predicts."""

import dataclasses
import json
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, load_module, open_weights, unloaded
from liftstudio.data.cameras import Cameras, concatenate, turned
from liftstudio.priors.base import Estimates, NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.precision import compute_dtype
from liftstudio.priors.projections import projections

RESOLUTION = 64
SIGMA_MIN, SIGMA_MAX = 0.05, 80.0
RAYS = 16384  # rendered at once
OTHERS_SIGMA = 1.0  # noise level that the network is told for further input images: more accurate than their true one
SHARPNESS = 2  # exponent of the weights by which volumes from several input images are blended


@dataclasses.dataclass(frozen=True)
class Side:
    """An input image as the network encodes it, once for all steps, beside the other input images.

    The network was trained in the frame where the input image is at azimuth 0; all cameras are rotated to it.

    picture:     result of the network's `look`.
    camera:      the image's camera, in the run's world.
    others:      [N, 4, R, R] pixels of the other input images.
    projections: [N, 3, 4] of their cameras, rotated.
    """

    picture: Any
    camera: Cameras
    others: Tensor
    projections: Tensor

    def rotated(self, cameras: Cameras) -> Cameras:
        """Return cameras of the run's world in the frame where this image is at azimuth 0."""
        return turned(cameras, -float(self.camera.azimuth_deg))


Condition = tuple[Side, ...]  # the first input image, and those others whose azimuth is in the trained range


class VolumePrior(Prior):
    """A prior whose estimates are renderings of one volume, so its views are consistent; for any cameras.

    Several input images are known views for one another: a volume is predicted from each together with the others, and
    a rendering is blended from them, mostly from that of the nearest image.

    Its network has `look(image, projection)`, which encodes the input image, `lift(picture, views, projections, sigma,
    has_image, has_views)`, which predicts a volume, and `render(volume, origins, directions, samples)`.
    """

    note: ClassVar[str]  # the prior's name in the metadata of its weight files
    size_type: ClassVar[type]  # dataclass that fixes the network's shapes; also in the metadata
    network_type: ClassVar[type[nn.Module]]
    samples: ClassVar[int]  # along each ray
    trained_fov_deg: ClassVar[tuple[float, float]]  # range of the images it was trained on, degrees
    trained_elevation_deg: ClassVar[tuple[float, float]]
    trained_azimuth_deg: ClassVar[tuple[float, float]]  # from the object's front, which is at azimuth 0 if known
    resolution = RESOLUTION
    latent_shape = (4, RESOLUTION, RESOLUTION)
    sigma_min, sigma_max = SIGMA_MIN, SIGMA_MAX
    frames = 0
    takes_several = True
    network: Any

    def __init__(self, config: Prior.Config, *, device: torch.device) -> None:
        self.config, self.device = config, device
        weights = open_weights(config.weights)
        if not self.recognizes(weights):
            raise InputError(f"{weights.path}: these are not weights of the prior '{self.note}'")
        with unloaded():
            network = self.network_type(self.read_size(weights))
        load_module(network, weights, {}, torch.float32, device)
        self.network = network
        self.network.dtype = compute_dtype(config.precision, device)

    @classmethod
    def around(cls, network: nn.Module) -> Self:
        """Return a prior around a network that is being trained."""
        prior = cls.__new__(cls)
        prior.config, prior.network, prior.device = cls.Config(""), network, next(network.parameters()).device
        return prior

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        """Recognize the file by the metadata that training writes."""
        return weights.metadata.get("prior") == cls.note

    @classmethod
    def describe(cls, size: Any) -> dict[str, str]:
        """Return the metadata of a weight file."""
        return {"prior": cls.note, "size": json.dumps(dataclasses.asdict(size))}

    @classmethod
    def read_size(cls, weights: Weights) -> Any:
        """Return the network's size from the metadata that `describe` made.

        Raises:
            InputError: it is missing or invalid.
        """
        try:
            return parse(json.loads(weights.metadata["size"]), cls.size_type)
        except (KeyError, ValueError, InputError):
            raise InputError(
                f"{weights.path}: its metadata 'size' does not describe the network '{cls.note}'"
            ) from None

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Accept any cameras; warn if fields of view or the input camera's angles are outside the training range."""
        fov_deg = torch.cat([one.fov_deg.cpu() for one in (input_camera, cameras)])
        self.warn_beyond("field of view", fov_deg, self.trained_fov_deg)
        self.warn_beyond("elevation of the input image", input_camera.elevation_deg, self.trained_elevation_deg)
        azimuth_deg = torch.remainder(input_camera.azimuth_deg + 180, 360) - 180
        self.warn_beyond("azimuth of the input image", azimuth_deg, self.trained_azimuth_deg)

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """See `Prior.encode`; the latents are the pixels."""
        return (2 * torch.cat([images, masks], dim=-1) - 1).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """See `Prior.decode`."""
        pixels = (latents.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)
        return pixels[..., :3], pixels[..., 3:]

    @torch.no_grad()
    def condition(self, posed: PosedImage) -> Condition:
        """See `Prior.condition`."""
        images = [posed, *posed.others]
        turns_deg = torch.cat([image.camera.azimuth_deg - posed.camera.azimuth_deg for image in images]).cpu()
        least, most = self.trained_azimuth_deg
        suited = [least <= turn <= most for turn in (torch.remainder(turns_deg + 180, 360) - 180).tolist()]
        return tuple(self._side(images, index) for index in range(len(images)) if index == 0 or suited[index])

    def _side(self, images: list[PosedImage], index: int) -> Side:
        """Return the image at `index` beside the others."""
        pixels = self.encode(*(torch.stack([getattr(i, name) for i in images]) for name in ("image", "mask")))
        others = [n for n in range(len(images)) if n != index]
        cameras = concatenate([image.camera for image in images]).to(self.device)
        known, camera = pixels.to(self.device), cameras[[index]]
        where = projections(turned(cameras, -float(camera.azimuth_deg)))
        return Side(self.network.look(known[[index]], where[[index]]), camera, known[others], where[others])

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Condition]) -> Tensor:
        """See `Prior.denoise`; the result is a rendering, so its views are consistent."""
        scale = noisy.guidance_scale
        if scale is None or bool((scale == 1).all()):
            return self._estimate(noisy)
        unconditional = self._estimate(noisy, has_image=False)
        if bool((scale == 0).all()):
            return unconditional
        return guided(self._estimate(noisy), unconditional, scale)

    @torch.no_grad()
    def denoise_separately(self, noisy: NoisyViews[Condition]) -> Estimates:
        """See `Prior.denoise_separately`; from the input image alone, the estimate is the same at all noise levels."""
        return Estimates(
            self._estimate(noisy),
            self._estimate(noisy, has_image=False),
            self._estimate(dataclasses.replace(noisy, sigma=SIGMA_MAX), has_views=False),  # as in training
        )

    def _estimate(self, noisy: NoisyViews[Condition], *, has_image: bool = True, has_views: bool = True) -> Tensor:
        cameras = noisy.cameras.to(self.device).resized(self.resolution, self.resolution)
        sides = noisy.condition if has_image else noisy.condition[:1]
        pixels = []
        for side in sides:
            rotated = side.rotated(cameras)
            lifted = self._lift(side, noisy.latents, projections(rotated), noisy.sigma, has_image, has_views)
            pixels.append(self._render(lifted, rotated, noisy.wanted))
        return pixels[0] if len(sides) == 1 else (torch.stack(pixels) * _shares(sides, cameras)).sum(0)

    def _lift(
        self,
        side: Side,
        views: Tensor,
        where: Tensor,
        sigma: float,
        has_image: bool = True,
        has_views: bool = True,
    ) -> Any:
        """Predict the volume from an input image, views [T, 4, R, R] with projections [T, 3, 4], and the other images.

        The other images are views too. The network knows one noise level for all views, so too noisy ones are left out.
        """
        if has_image and len(side.others):
            if not has_views or sigma > OTHERS_SIGMA:
                views, where, sigma, has_views = side.others, side.projections, OTHERS_SIGMA, True
            else:
                views, where = torch.cat([side.others, views]), torch.cat([side.projections, where])
        yes = torch.ones(1, dtype=torch.bool, device=self.device)
        level = torch.full((1,), sigma, device=self.device)
        return self.network.lift(side.picture, views[None], where[None], level, yes & has_image, yes & has_views)

    def _render(self, lifted: Any, cameras: Cameras, wanted: Tensor | None) -> Tensor:
        """Render the network's volume: [T, 4, R, R] pixels in [-1, 1]; 0 where not `wanted` [T, R, R]."""
        origins, directions = cameras.rays()
        if wanted is None:
            wanted = torch.ones(origins.shape[:-1], dtype=torch.bool, device=origins.device)
        pixels = torch.zeros(*wanted.shape, self.latent_shape[0], device=origins.device)
        pieces = zip(*(rays[wanted][None].split(RAYS, 1) for rays in (origins, directions)), strict=True)
        pixels[wanted] = torch.cat([self.network.render(lifted, *piece, self.samples)[0] for piece in pieces])
        return pixels.permute(0, 3, 1, 2)


def _shares(sides: Condition, cameras: Cameras) -> Tensor:
    """Return the weight of each side's volume in each view, [sides, T, 1, 1, 1]; they add up to 1."""
    given, wanted = (F.normalize(one.centers, dim=-1) for one in (concatenate([s.camera for s in sides]), cameras))
    near = ((1 + given @ wanted.mT) / 2).clamp_min(1e-3) ** SHARPNESS
    return (near / near.sum(0))[..., None, None, None]
