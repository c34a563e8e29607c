"""ImageDream and MVDream as a `Prior`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import NonNegativeFloat
from liftstudio.core.registry import register
from liftstudio.core.weights import UNET_FOLDER, Weights, is_hub_name, open_weights
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import straight_from_white
from liftstudio.priors.base import SAME_DEG, NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import guided_estimate
from liftstudio.priors.latent_prior import LATENT_SCALE, LatentPrior
from liftstudio.priors.parameterization import x0_from_epsilon
from liftstudio.priors.precision import network_dtype
from liftstudio.priors.samplers import ddim_sigmas, nearest_timestep, scaled_linear_levels

from .conditioning import VIEWS, camera_conditions, clip_pixels, over_grey, vae_pixels
from .denoising import Branch, Condition, estimate_epsilon, make_condition
from .layout import STABLE_DIFFUSION, TOWER, adaptor_kind, image_prefix, is_imagedream, mode_of, number, pipeline_of

if TYPE_CHECKING:  # diffusers takes seconds to import
    from .checkpoint import Parts
    from .text import TextEncoder

# Of the training images, degrees: (elevations, vertical fields of view).
TRAINED_DEG = {"image": ((0.0, 30.0), (45.0, 50.0)), "text": ((0.0, 30.0), (15.0, 60.0))}
NEGATIVE_PROMPT = (  # that of ImageDream's 3D configuration
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
    "lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, "
    "bad proportions"
)


@register("imagedream")
class ImageDream(LatentPrior):
    """ImageDream, or MVDream without an input image: four views of an object in its canonical frame, front on +x.

    After Wang & Shi 2023, "ImageDream", and Shi et al. 2023, "MVDream". The cameras of the four views are free, but the
    networks were trained on equal elevations, 90 degrees apart. Any number of such sets of four are denoised together.
    The network infers the input image's camera by itself.
    """

    published = (
        "the official files sd-v2.1-base-4view-ipmv.pt and sd-v2.1-base-4view-ipmv-local.pt (ImageDream) are published "
        "at huggingface.co/Peng-Wang/ImageDream, sd-v2.1-base-4view.pt (MVDream) at huggingface.co/MVDream/MVDream, "
        "under their publishers' licences"
    )

    @dataclass
    class Config(Prior.Config):
        mode: Literal["auto", "pixel", "local", "text"] = "auto"  # image as frame or only as tokens; no image; by file
        prompt: str = ""  # short description of the object, used verbatim
        prompt_suffix: str = ""  # appended to it; the released samplers of four views have ", 3d asset"
        negative_prompt: str = NEGATIVE_PROMPT  # what the object is not
        ip_weight: NonNegativeFloat = 1.0  # weight of the attention to the image, relative to that to the text
        vae: str = ""  # folder (local or on the hub) of a diffusers autoencoder; "": the weights' own
        image_encoder: str = ""  # folder of CLIP's image encoder; "": the weights' own, or LAION's
        text_encoder: str = ""  # folder with text_encoder/ and tokenizer/; "": the weights' own, or Stable Diffusion's

    config: Config
    frames = VIEWS
    knows_backgrounds = True

    def __init__(self, config: Config, *, device: torch.device) -> None:
        weights = open_weights(config.weights, self.published)
        self.mode = mode_of(weights, config.mode)
        self.sees_whole = (
            adaptor_kind(weights, image_prefix(weights)) == "global"
        )  # the image's embedding instead of the tower's tokens
        if self.mode == "text" and not config.prompt:
            raise InputError(f"prompt: expected a description of the object, as {weights.path.name} takes text alone")
        parts, text = _open(config, weights)
        super().__init__(config, parts.vae, number(weights, "image_size"), device=device)
        self.name = f"{'MVDream' if self.mode == 'text' else 'ImageDream'} ({self.mode}, {weights.path.name})"
        self.levels = scaled_linear_levels()  # of each timestep
        self.sigma_min, self.sigma_max = self.levels[0].item(), self.levels[-1].item()
        self.takes_image = self.mode != "text"
        self.guidance_scale = 7.5 if self.mode == "text" else 5.0  # as in the examples of the public conversion
        if not config.prompt:
            log.warning("%s: no prompt; a short description of the object improves the result", self.name)
        prompt = config.prompt and config.prompt + config.prompt_suffix
        texts = {"prompt": prompt, "negative_prompt": config.negative_prompt}
        self.text = text.encode(texts, device)
        dtype = network_dtype(config.precision, device, parts.unet.module)
        self.unet = parts.unet.load(dtype, device)
        self.adaptor: Any = parts.adaptor.load(torch.float32, device) if parts.adaptor else None
        self.tower: Any = parts.tower.load(dtype, device) if parts.tower else None

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_imagedream(weights)

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        if len(cameras) == 0 or len(cameras) % self.frames:
            raise InputError(f"{self.name}: expected a multiple of {self.frames} views, got {len(cameras)}")
        if not self._are_around(cameras):
            trained = f"{self.frames} views of equal elevation, {360 / self.frames:g} degrees apart"
            log.warning("%s was trained on %s; these are not", self.name, trained)
        ranges = TRAINED_DEG["text" if self.mode == "text" else "image"]
        asked = {"elevation": cameras.elevation_deg, "field of view": cameras.fov_deg}
        for (name, angles_deg), trained_deg in zip(asked.items(), ranges, strict=True):
            self.warn_beyond(name, angles_deg, trained_deg)
        if self.takes_image:
            self._check_picture(input_camera, cameras)

    def _are_around(self, cameras: Cameras) -> bool:
        """Return whether each set of views has one elevation and evenly spaced azimuths, in any order."""
        azimuths, elevations = (
            angles_deg.unflatten(0, (-1, self.frames)).sort(1).values
            for angles_deg in (cameras.azimuth_deg % 360, cameras.elevation_deg)
        )
        off_deg = torch.stack([azimuths.diff(dim=1) - 360 / self.frames, elevations.diff(dim=1)])
        return bool(off_deg.abs().max() < SAME_DEG)

    def _check_picture(self, camera: Cameras, cameras: Cameras) -> None:
        """Warn if the input image is from behind, or its elevation differs from all views."""
        self.warn_beyond("azimuth of the input image", (camera.azimuth_deg + 180) % 360 - 180, (-90.0, 90.0))
        low, high = (angle.item() for angle in cameras.elevation_deg.aminmax())
        own = camera.elevation_deg.item()
        if not low - SAME_DEG <= own <= high + SAME_DEG:
            elevations = f"{own:.4g} degrees, but views from {low:.4g} to {high:.4g}"
            log.warning("elevation of the input image: %s; %s was trained on equal ones", elevations, self.name)

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of DDIM, as in the official code: see `samplers.ddim_sigmas`."""
        return ddim_sigmas(self.levels, steps)

    @torch.no_grad()
    def condition(self, posed: PosedImage | None) -> Condition:
        """Encode the text and the input image over its grey; in mode text, the text alone.

        Latents are sampled from their distribution, as in the official code, but always with the same noise.
        """
        if posed is None or self.adaptor is None:
            return make_condition(self.text, None, None)
        check_shape("posed.image", posed.image, (self.resolution, self.resolution, 3))
        rgb = straight_from_white(posed.image, posed.mask)
        image = over_grey(rgb, posed.mask, posed.grey).to(self.device)
        tokens = self._image_tokens(image)
        latent = self._image_latent(image) if self.mode == "pixel" else None
        return make_condition(self.text, self.adaptor(torch.stack([tokens, torch.zeros_like(tokens)])), latent)

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Condition]) -> Tensor:
        """See `Prior.denoise`; a scale of 0 everywhere gives the unconditional estimate alone.

        The views are any number of sets of four, one after the other. The network is given the nearest timestep.
        """
        sigma, condition = noisy.sigma, noisy.condition
        scaled = (noisy.latents / (1 + sigma**2) ** 0.5).unflatten(0, (-1, self.frames))
        poses = camera_conditions(noisy.cameras.c2w).unflatten(0, (-1, self.frames))
        timestep = nearest_timestep(self.levels, sigma)

        def estimate(branches: Sequence[Branch]) -> Tensor:
            epsilon = estimate_epsilon(self.unet, scaled, timestep, poses, branches).flatten(1, 2)
            return x0_from_epsilon(noisy.latents, epsilon, sigma)

        return guided_estimate(estimate, condition.conditional, condition.unconditional, noisy.guidance_scale)

    def _image_tokens(self, image: Tensor) -> Tensor:
        """Return the image tower's penultimate hidden states [N, D] float32; for "global" its embedding [D]."""
        pixels = clip_pixels(image, self.tower.config.image_size).to(next(self.tower.parameters()).dtype)
        if self.sees_whole:
            return self.tower(pixel_values=pixels).image_embeds[0].float()
        return self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][0].float()

    def _image_latent(self, image: Tensor) -> Tensor:
        """Return the scaled latent [4, h, w] of the image."""
        posterior = self.posterior(vae_pixels(image, self.resolution)[None])
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        return LATENT_SCALE * (posterior.mean + posterior.std * noise)[0]


def _open(config: ImageDream.Config, weights: Weights) -> tuple["Parts", "TextEncoder"]:
    """Return all networks, checked, not loaded; each from its option, the weights, their pipeline, or the default."""
    from .checkpoint import Elsewhere, has_tower, has_vae, open_parts  # diffusers takes seconds to import
    from .text import TextEncoder

    pipeline = _pipeline(config.weights, weights)
    text = TextEncoder(config.text_encoder or pipeline or STABLE_DIFFUSION)
    vae = "" if has_vae(weights) else f"{pipeline or STABLE_DIFFUSION}/vae"
    tower = "" if has_tower(weights) else f"{pipeline}/image_encoder" if pipeline else TOWER
    parts = open_parts(weights, config.ip_weight, Elsewhere(config.vae or vae, config.image_encoder or tower))
    expected = parts.unet.module.config.cross_attention_dim
    if text.width != expected:
        raise InputError(
            f"text_encoder: expected tokens of width {expected}, as {weights.path} takes, got {text.width}"
        )
    return parts, text


def _pipeline(text: str, weights: Weights) -> str:
    """Return the diffusers pipeline, local or on the hub, of the weights that `text` names; "" for none."""
    folder = pipeline_of(weights)
    if folder and is_hub_name(text):
        return re.sub(rf"/{UNET_FOLDER}(/[^/]*)?$", "", text.rstrip("/"))
    return str(folder or "")
