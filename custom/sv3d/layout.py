"""What kind of SV3D file this is; light, since every command may ask."""

import re

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights
from liftstudio.priors.latent_diffusion import metadata_number

from .conditioning import ANGLE_WIDTH, COND_AUG_WIDTH

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.open_clip.model.visual."
VAE = "conditioner.embedders.1.encoder."
# The rest of the text tower, and a second decoder without the convolution before it.
UNUSED = re.compile(r"conditioner\.embedders\.0\.open_clip\.model\.(?!visual\.)|first_stage_model\.|denoiser\.")
VECTOR = f"{UNET}label_emb.0.0.weight"
VARIANTS = {COND_AUG_WIDTH + 2 * ANGLE_WIDTH: "sv3d_p", COND_AUG_WIDTH: "sv3d_u"}  # by the width of the frame vectors
# What shapes cannot tell: of the official models. Other files say theirs under these names in their metadata.
NUMBERS = {"num_head_channels": 64, "clip_head_channels": 80, "image_size": 576, "num_frames": 21}


def is_sv3d(weights: Weights) -> bool:
    """Whether these are weights of SV3D, with cameras (sv3d_p) or without (sv3d_u), in the official layout."""
    return VECTOR in weights and weights.shapes[VECTOR][-1] in VARIANTS


def vector_width(weights: Weights) -> int:
    """Width of the vector that each frame's layers get, which tells the variant.

    Raises:
        InputError: not SV3D's weights.
    """
    if VECTOR not in weights:
        raise InputError(f"{weights.path}: not SV3D's weights in their official layout: '{VECTOR}' is missing")
    if not is_sv3d(weights):
        known = " or ".join(f"{width} ({name})" for width, name in VARIANTS.items())
        found = list(weights.shapes[VECTOR])
        raise InputError(f"{weights.path}: not SV3D's weights: '{VECTOR}' has shape {found}, its width must be {known}")
    return weights.shapes[VECTOR][-1]


def number(weights: Weights, name: str) -> int:
    """One of NUMBERS: the file's own, or that of the official models; see `metadata_number`."""
    return metadata_number(weights, name, NUMBERS[name])
