"""Recognition of SyncDreamer files; light imports only, as every command may need it."""

import re

from liftstudio.core.weights import Weights
from liftstudio.priors.latent_diffusion import metadata_number

FIRST = "spatial_volume.target_encoder.init_conv.weight"  # only SyncDreamer has it
UNET = "model.diffusion_model."
VOLUME = "spatial_volume."
VAE = "first_stage_model."
CLIP = "clip_image_encoder.model.visual."
BUFFERS = ("poses", "Ks", "azimuth", "alphas_cumprod")
# Other values that follow from the noise schedule, and the rest of CLIP's text tower.
UNUSED = re.compile(
    r"(betas|alphas|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod|posterior_variance|posterior_log_variance_clipped"
    r"|clip_image_encoder\.model\.(positional_embedding|text_projection|logit_scale|token_embedding\.weight"
    r"|ln_final\.(weight|bias)))$"
)
# Sizes that shapes do not reveal, for the official model. Other files give theirs under these names in their metadata.
NUMBERS = {"num_heads": 8, "clip_head_channels": 64, "spatial_volume_size": 32, "frustum_volume_depth": 48}


def is_syncdreamer(weights: Weights) -> bool:
    """Return whether these are SyncDreamer weights in the official layout."""
    return FIRST in weights


def number(weights: Weights, name: str) -> int:
    """Return one of NUMBERS: the file's own, or that of the official model; see `metadata_number`."""
    return metadata_number(weights, name, NUMBERS[name])
