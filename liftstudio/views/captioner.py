"""A caption of the object in a picture, by a captioner from transformers."""

from typing import Any, cast

import torch

from liftstudio.core.errors import InputError
from liftstudio.data.images import to_pillow
from liftstudio.priors.network_folders import loading
from liftstudio.views.input_image import InputImage

OPTION = "captioner"
KINDS = ("blip", "blip-2", "git")  # transformers' model types that describe a picture without being asked
PIXELS = 512  # across the picture that is described; the captioner resizes it
WORDS = 30  # most tokens of a caption


@torch.no_grad()
def caption(picture: InputImage, model: str, device: torch.device) -> str:
    """Return a short description of the object in a picture, which is shown over white.

    model: folder of a captioner as transformers writes it (BLIP, GIT), or its name on the Hugging Face hub, from which
        it is downloaded.

    Raises:
        InputError: there is no such captioner, it is of another kind, or it says nothing.
    """
    with loading(OPTION, model, "captioner") as name:
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor  # take seconds to import

        kind = AutoConfig.from_pretrained(name).model_type
        if kind not in KINDS:
            raise InputError(f"{OPTION}: {model}: expected one of {', '.join(KINDS)}, got '{kind}'")
        options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
        network, found = cast(Any, AutoModelForImageTextToText.from_pretrained(name, **options))
        if found["missing_keys"]:  # transformers would initialise them randomly
            raise InputError(f"{OPTION}: {model}: the weight '{min(found['missing_keys'])}' is missing")
        processor = cast(Any, AutoProcessor.from_pretrained(name))
    shown = to_pillow(picture.frame(PIXELS)[0])
    inputs = processor(images=shown, return_tensors="pt").to(device)
    tokens = network.to(device).eval().generate(**inputs, max_new_tokens=WORDS, do_sample=False)
    text = " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split())
    if not text:
        raise InputError(f"{OPTION}: {model} says nothing about the picture; give a prompt")
    return text
