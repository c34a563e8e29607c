"""Zero-1-to-3 in the format of diffusers' community pipelines: a folder of networks."""

import contextlib
import re
from dataclasses import dataclass

from torch import nn

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights, unloaded
from liftstudio.priors.latent_diffusion import Part, check_all_used, same, weight_shape
from liftstudio.priors.network_folders import (
    check_folder,
    check_predicts_noise,
    diffusers_part,
    image_tower_part,
    open_folder_weights,
)

PUBLISHED = (
    "Zero-1-to-3 in diffusers' format (unet/, vae/, image_encoder/, cc_projection/) is at "
    "huggingface.co/kxic/zero123-xl and kxic/zero123-165000, under the MIT licence; see there for further terms"
)
POSE = 4  # numbers per relative camera

# Folder of the projection -> name of the layer in it, for the two published kinds of conversions.
_PROJECTIONS = {"cc_projection": "projection", "clip_camera_projection": "proj"}
_NOT_USED = re.compile(r"vision_model\.embeddings\.position_ids$")
_INPUT = "conv_in.weight"


@dataclass(frozen=True)
class Parts:
    """The networks of a folder; the projection maps the image embedding and the relative camera to one token."""

    unet: Part
    vae: Part
    tower: Part
    projection: Part


def is_zero123(weights: Weights) -> bool:
    """Return whether these are weights of a diffusers UNet that takes an image's latents next to the noisy ones."""
    return weights.shapes.get(_INPUT, ())[1:2] == (8,) and weights.shapes.get("conv_out.weight", ())[:1] == (4,)


def open_folder(folder: str) -> Parts:
    """Open all networks; they are checked, but weights are read only by `part.load`.

    Args:
        folder: in diffusers' format, or `owner/name` on the Hugging Face hub.

    Raises:
        InputError: a file is missing (the message says where it is published) or not readable; a weight is missing,
            unknown or has the wrong shape; the networks do not match, or predict something other than noise.
    """
    check_folder(folder, PUBLISHED)
    check_predicts_noise(folder, PUBLISHED)
    from diffusers import AutoencoderKL, UNet2DConditionModel  # takes seconds to import

    parts = Parts(
        diffusers_part(UNet2DConditionModel, f"{folder}/unet", PUBLISHED),
        diffusers_part(AutoencoderKL, f"{folder}/vae", PUBLISHED),
        image_tower_part(f"{folder}/image_encoder", PUBLISHED, projected=True),
        _projection_part(folder),
    )
    for part in (parts.unet, parts.vae, parts.tower, parts.projection):
        part.check()
        check_all_used(part.weights, [part], _NOT_USED)
    _check_match(folder, parts)
    return parts


def _projection_part(folder: str) -> Part:
    weights, name = _projection_weights(folder)
    outputs, inputs = weight_shape(weights, f"{name}.weight", 2)
    with unloaded():
        module = nn.Linear(inputs, outputs)
    return Part(module, weights, {key: (f"{name}.{key}", same) for key in module.state_dict()})


def _projection_weights(folder: str) -> tuple[Weights, str]:
    for subfolder, name in _PROJECTIONS.items():
        with contextlib.suppress(InputError):
            return open_folder_weights(f"{folder}/{subfolder}", "diffusion_pytorch_model", ""), name
    first, second = _PROJECTIONS
    raise InputError(f"{folder}: no camera projection, neither {first}/ nor {second}/; {PUBLISHED}")


def _check_match(folder: str, parts: Parts) -> None:
    unet, vae, tower = (part.module.config for part in (parts.unet, parts.vae, parts.tower))
    projection = parts.projection.module
    if unet.in_channels != 2 * unet.out_channels:
        raise InputError(
            f"{folder}/unet: {unet.in_channels} channels in and {unet.out_channels} out; expected twice as many in as "
            f"out, for noisy latents and the image's; {PUBLISHED}"
        )
    for name, wanted, got in (
        ("vae: channels of its latents", unet.out_channels, vae.latent_channels),
        (
            "image_encoder: width of its embedding",
            projection.in_features - POSE,
            tower.projection_dim,
        ),
        ("projection: width of its token", unet.cross_attention_dim, projection.out_features),
    ):
        if got != wanted:
            raise InputError(f"{folder}: {name}: expected {wanted}, got {got}")
