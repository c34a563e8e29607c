"""Inputs that networks make: the picture of a text, and a caption for the prompt."""

import shutil
from pathlib import Path

import pytest
import yaml
from helpers.tiny_captioner import WORDS, write_tiny_captioner
from helpers.tiny_text2image import write_tiny_painter
from PIL import Image

from liftstudio.cli.command_line import BAD_INPUT, DONE, main
from liftstudio.core.assets import packaged
from liftstudio.core.errors import InputError
from liftstudio.run.made_inputs import with_made_inputs

TEXT = "text=a corgi in a space suit"
PAINTED = [TEXT, "text_to_image.model=painter", "text_to_image.count=2", "text_to_image.steps=1"]


def views(*words: str) -> int:
    return main(["--config", "ball.yaml", "--views", "device=cpu", "tag=a", *words])


def test_a_text_becomes_the_picture_of_a_run(ball_project: Path) -> None:
    write_tiny_painter(ball_project / "painter")
    assert views(*PAINTED) == DONE
    run = ball_project / "runs" / "ball" / "a"
    config = yaml.safe_load((run / "config.yaml").read_text())
    picture = Path(config["image"])
    assert picture.parent.parent == Path("runs/inputs") and picture.stem.startswith("a_corgi_in_a_space_suit_")
    assert config["text"] == "a corgi in a space suit" and config["views"]["image"] == str(picture)
    assert {path.name for path in (run / "inputs").iterdir()} == {picture.name, "seed-0.png", "seed-1.png"}
    kept = Image.open(run / "inputs" / picture.name)
    assert kept.mode == "RGBA" and kept.getpixel((32, 32)) == (0, 0, 0, 255) and kept.getpixel((0, 0))[3] == 0
    shutil.rmtree(ball_project / "painter")
    assert views(*PAINTED) == DONE, "it is not made again"
    assert (run.with_name("a-2") / "inputs" / picture.name).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TEXT], "text: needs the folder of a text-to-image pipeline in diffusers' format, or its name on"),
        ([*PAINTED, "image=photo.png"], "text: gives the picture, and so does image=photo.png; leave one of them out"),
        ([*PAINTED, "views.steps=-1"], "views.steps: "),
        (PAINTED, "text_to_image.model: painter: no such folder"),
    ],
)
def test_bad_input(words: list[str], message: str, ball_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ball_project / "ball.yaml").write_text((ball_project / "ball.yaml").read_text().replace("???", "photo.png"))
    assert views(*words) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (ball_project / "runs" / "ball").exists()


def test_a_config_without_a_picture_takes_no_text() -> None:
    path = packaged("configs") / "mvdream.yaml"
    with pytest.raises(InputError, match="takes no picture"):
        with_made_inputs(path, ["prompt=a corgi", "prior.weights=w.pt", *PAINTED], None)


def test_a_caption_is_the_prompt_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_captioner(tmp_path / "blip")
    path = packaged("configs") / "imagedream.yaml"
    (override,) = with_made_inputs(path, ["captioner=blip"], None)[1:]
    assert override.startswith("prompt=") and set(override[7:].split()) <= set(WORDS)
    given = ["captioner=blip", "prompt=a robot"]
    assert with_made_inputs(path, given, None) == given
