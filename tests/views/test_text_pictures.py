"""Pictures of a text, and the choice among them."""

from pathlib import Path

import pytest
import torch
from helpers.tiny_text2image import write_tiny_painter
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image, save_image
from liftstudio.views.text_pictures import best_picture, judged, make_pictures

CPU = torch.device("cpu")
SIZE = 96


def draw(path: Path, *boxes: tuple[int, int, int, int]) -> Path:
    """Write a picture of dark boxes (left, top, right, bottom) before white."""
    image = torch.ones(SIZE, SIZE, 3)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = torch.tensor([0.2, 0.1, 0.4])
    save_image(path, image)
    return path


def alpha_of(picture: Tensor) -> Tensor:
    return picture[..., 3] > 0.5


def test_the_picture_with_one_whole_object_in_the_middle_is_taken(tmp_path: Path) -> None:
    made = {
        3: draw(tmp_path / "cut.png", (20, 40, 70, SIZE)),
        4: draw(tmp_path / "two.png", (10, 30, 40, 70), (60, 30, 90, 70)),
        5: draw(tmp_path / "aside.png", (5, 20, 45, 60)),
        6: draw(tmp_path / "middle.png", (30, 26, 70, 72)),
        7: draw(tmp_path / "nothing.png"),
    }
    best = best_picture(made)
    wanted = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    wanted[26:72, 30:70] = True
    assert torch.equal(alpha_of(best), wanted)
    others = {seed: path for seed, path in made.items() if seed < 6}
    assert alpha_of(best_picture(others))[25, 10] and not alpha_of(best_picture(others))[25, 80]
    with pytest.raises(InputError) as refusal:
        best_picture({seed: made[seed] for seed in (3, 4, 7)})
    for fault in ("seed 3: cut off at the bottom", "seed 4: several objects: 50% is apart", "seed 7: ", "another seed"):
        assert fault in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_measures(tmp_path: Path) -> None:
    left = judged(draw(tmp_path / "left.png", (8, 24, 56, 72), (80, 80, 84, 84)))
    assert left.off_centre == pytest.approx(1 / 3, abs=0.02)  # middle of the box at 32 of 96
    assert left.apart == 0 and left.fault() == ""  # a speck is no object


def test_a_pipeline_makes_pictures_by_their_seeds(tmp_path: Path) -> None:
    pipeline = str(write_tiny_painter(tmp_path / "painter"))
    made = make_pictures("a corgi", pipeline, tmp_path, seeds=range(5, 7), steps=1, device=CPU)
    assert [path.name for path in made.values()] == ["seed-5.png", "seed-6.png"]
    assert load_image(made[6])[0].shape == (64, 64, 3)
    assert alpha_of(best_picture(made))[32, 32]


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    for folder, reason in (("nowhere", "no such folder"), (str(tmp_path), "cannot load a text-to-image pipeline")):
        with pytest.raises(InputError, match=rf"^text_to_image\.model: {folder}: {reason}"):
            make_pictures("a corgi", folder, tmp_path, seeds=range(1), steps=1, device=CPU)
