"""A caption of the object in a picture."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_captioner import WORDS, write_tiny_captioner
from helpers.tiny_hifi123 import write_estimator
from helpers.tiny_prior import write_ball

from liftstudio.core.errors import InputError
from liftstudio.views.captioner import caption
from liftstudio.views.input_image import InputImage, load_input_image

CPU = torch.device("cpu")


@pytest.fixture
def picture(tmp_path: Path) -> InputImage:
    return load_input_image(write_ball(tmp_path / "ball.png"))


def test_a_picture_is_described(picture: InputImage, tmp_path: Path) -> None:
    folder = str(write_tiny_captioner(tmp_path / "blip"))
    text = caption(picture, folder, CPU)
    assert text and set(text.split()) <= set(WORDS[5:]), text
    assert caption(picture, folder, CPU) == text


def test_what_is_no_captioner_is_refused(picture: InputImage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^captioner: nowhere: no such folder$"):
        caption(picture, "nowhere", CPU)
    write_estimator(tmp_path / "dpt")
    with pytest.raises(InputError, match="expected one of blip, blip-2, git, got 'dpt'"):
        caption(picture, str(tmp_path / "dpt"), CPU)
    folder = write_tiny_captioner(tmp_path / "blip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"^captioner: .*blip: cannot load a captioner \("):
        caption(picture, str(folder), CPU)
