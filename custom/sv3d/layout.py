"""Recognition of SV3D files and their variant; light imports only, as every command may need it."""

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
# Sizes that shapes do not reveal, for the official models. Other files give theirs under these names in their metadata.
NUMBERS = {"num_head_channels": 64, "clip_head_channels": 80, "image_size": 576, "num_frames": 21}


def is_sv3d(weights: Weights) -> bool:
    """Return whether these are SV3D weights, with cameras (sv3d_p) or without (sv3d_u), in the official layout."""
    return VECTOR in weights and weights.shapes[VECTOR][-1] in VARIANTS


def vector_width(weights: Weights) -> int:
    """Return the width of the frame vectors, which determines the variant.

    Raises:
        InputError: these are not SV3D's weights.
    """
    if VECTOR not in weights:
        raise InputError(f"{weights.path}: not SV3D's weights in their official layout: '{VECTOR}' is missing")
    if not is_sv3d(weights):
        known = " or ".join(f"{width} ({name})" for width, name in VARIANTS.items())
        found = list(weights.shapes[VECTOR])
        raise InputError(f"{weights.path}: not SV3D's weights: '{VECTOR}' has shape {found}, expected width {known}")
    return weights.shapes[VECTOR][-1]


def number(weights: Weights, name: str) -> int:
    """Return one of NUMBERS: the file's own, or that of the official models; see `metadata_number`."""
    return metadata_number(weights, name, NUMBERS[name])
