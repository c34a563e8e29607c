"""`--views` writes only the views, readable by `posed-images`; `--train` from an image writes the same."""

import json
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from helpers.tiny_prior import TinyBall
from PIL import Image
from torch import Tensor

from liftstudio.cli.command_line import main
from liftstudio.core.config import parse
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.elevation import Elevation, ElevationEstimator
from liftstudio.run.inputs import Inputs
from liftstudio.views.posed_images import PosedImages
from liftstudio.views.saving import save_views

VIEWS = ["--config", "ball.yaml", "--views", "image=photo.png", "device=cpu", "tag=a"]
TRAIN = ["--config", "ball.yaml", "--train", "image=photo.png", "device=cpu", "tag=a"]
FILES = {*(f"{index:03d}.png" for index in range(6)), "orbit.mp4", "contact_sheet.png", "transforms.json"}


def read_back(folder: Path, **options: object) -> ReferenceViews:
    config = parse({"path": str(folder), **options}, PosedImages.Config, "views")
    return PosedImages(config, device=torch.device("cpu")).load()


def video_frames(path: Path) -> list[Tensor]:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return [torch.frombuffer(bytearray(f), dtype=torch.uint8).reshape(height, width, 3) / 255 for f in reader]


def test_the_views_mode_writes_only_the_views(ball_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(VIEWS) == 0
    run = Path("runs/ball/a")
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "command.txt",
        "messages.txt",
        "report.html",
        "checkpoints",
        "views",
    }
    assert {path.name for path in (run / "views").iterdir()} == FILES
    shown = capsys.readouterr()
    assert "runs/ball/a/views" in shown.out and shown.err == ""
    for index in range(6):
        picture = Image.open(run / "views" / f"{index:03d}.png")
        assert picture.mode == "RGBA" and picture.size == (48, 48)


def test_the_written_views_are_read_back(ball_project: Path) -> None:
    assert main(VIEWS) == 0
    run = Path("runs/ball/a")
    made = Inputs.restore(run / "checkpoints" / "inputs.ckpt").views
    assert made is not None and made.input_view == 5
    views = read_back(run / "views", normalize="as-given")
    assert views.names == made.names
    torch.testing.assert_close(views.masks, made.masks, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(views.over(1.0), made.over(1.0), atol=1.1 / 255, rtol=0)  # rounded colour and alpha
    for name in ("c2w", "fx", "fy", "cx", "cy"):
        torch.testing.assert_close(getattr(views.cameras, name), getattr(made.cameras, name), atol=1e-6, rtol=1e-6)
    # Rescaled to the run's usual size, the ball keeps its rays: 0.9 / 0.7 times as large and as far.
    normalized = read_back(run / "views")
    torch.testing.assert_close(
        normalized.cameras.centers, made.cameras.centers * (0.9 / 0.7), atol=0.25, rtol=0
    )  # outline pixels are 0.046 wide


def test_the_video_starts_at_the_input_view(ball_project: Path) -> None:
    assert main(VIEWS) == 0
    made = Inputs.restore(Path("runs/ball/a/checkpoints/inputs.ckpt")).views
    assert made is not None
    frames = video_frames(Path("runs/ball/a/views/orbit.mp4"))
    assert len(frames) == 6
    for frame, index in zip(frames, (5, 0, 1, 2, 3, 4), strict=True):
        errors = (made.over(1.0) - frame).abs().mean((1, 2, 3))
        assert errors.argmin() == index and errors[index] < 0.03  # the codec's loss


def test_resume_continues_from_the_views(ball_project: Path) -> None:
    assert main(VIEWS) == 0
    assert main(["--config", "runs/ball/a/config.yaml", "--resume"]) == 0
    assert Path("runs/ball/a/export/mesh.ply").is_file() and len(TinyBall.prompts) == 1


def test_train_writes_the_same_views(ball_project: Path) -> None:
    assert main(VIEWS) == 0
    assert main(TRAIN) == 0
    assert Path("runs/ball/a-2/metrics.json").is_file() and len(TinyBall.prompts) == 1
    for name in FILES:
        assert (Path("runs/ball/a/views") / name).read_bytes() == (Path("runs/ball/a-2/views") / name).read_bytes()


def test_a_resumed_run_estimates_no_elevation_again(ball_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [Elevation(torch.tensor([17.26]), torch.tensor([4.0]))]
    monkeypatch.setattr(ElevationEstimator, "__call__", lambda *_: said.pop())
    assert main([*VIEWS, "views.elevation_deg=auto"]) == 0
    transforms = json.loads(Path("runs/ball/a/views/transforms.json").read_text())
    assert (transforms["elevation_deg"], transforms["elevation_error_deg"]) == (17.3, 4.0)
    assert read_back(Path("runs/ball/a/views"), normalize="as-given").cameras.elevation_deg[-1] == pytest.approx(17.3)
    assert main(["--config", "runs/ball/a/config.yaml", "--resume"]) == 0 and not said
    noted = json.loads(Path("runs/ball/a/metrics.json").read_text())["elevation"]
    assert noted == {"estimated_deg": 17.3, "expected_error_deg": 4.0, "by_hand": "views.elevation_deg=17.3"}


def test_the_tag_is_the_images_name(ball_project: Path) -> None:
    assert main([*VIEWS[:-1], "image=photo.png"]) == 0
    (run,) = Path("runs/ball").iterdir()
    assert run.name.startswith("photo-2")


def test_given_views_are_written_on_demand_only(ball_project: Path) -> None:
    assert main(["--config", "tiny.yaml", "--train", "data.path=capture", "device=cpu", "tag=a"]) == 0
    assert not Path("runs/tiny/a/views").exists()
    arguments = ["data.path=capture", "device=cpu", "tag=b", "views.held_out=[2]"]
    assert main(["--config", "tiny.yaml", "--views", *arguments]) == 0
    made = Inputs.restore(Path("runs/tiny/b/checkpoints/inputs.ckpt")).views
    views = read_back(Path("runs/tiny/b/views"), normalize="as-given")
    assert made is not None and views.held_out.tolist() == made.held_out.tolist() == [False, False, True, False]
    torch.testing.assert_close(views.cameras.c2w, made.cameras.c2w)


def test_transforms_come_last(ball_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a transforms.json is complete; without one it is rewritten by --resume."""
    assert main(VIEWS) == 0
    folder = Path("runs/ball/a/views")
    made = Inputs.restore(Path("runs/ball/a/checkpoints/inputs.ckpt")).views
    assert made is not None
    save_views(Path("again"), made)
    assert all((folder / name).read_bytes() == (Path("again") / name).read_bytes() for name in FILES)
    assert json.loads((folder / "transforms.json").read_text())["w"] == 48
    for name in ("transforms.json", "002.png"):
        (folder / name).unlink()
    assert main(["--config", "runs/ball/a/config.yaml", "--resume"]) == 0
    assert {path.name for path in folder.iterdir()} == FILES


FAULTS = {
    "image=no.png": "no.png: no such image",
    "image=capture": "capture: is not a file",
    "image=ball.yaml": "ball.yaml: not a readable image",
    "image=opaque.png": "opaque.png: the object in it is doubtful",
    "image=clear.png": "clear.png: no foreground",
    "image=dot.png": "dot.png: the object is only 5x5 pixels; expected 32 or more",
    "prior.weights=no.safetensors": "no.safetensors: no such file or folder; the tiny ball is at https://",
    "prior.weights=photo.png": "photo.png: not a readable weight file",
    "prior.type=tiny-bal": "unknown prior 'tiny-bal'; did you mean 'tiny-ball'",
    "prior.chunk=-1": "prior.chunk: expected 0 or more",
    "views.elevation_deg=95": "views.elevation_deg: expected -89 to 89, got 95",
    "views.elevation_deg=65": "views.elevation_deg and amplitude_deg: elevations must stay within",
    "views.orbit.typ=sine": "did you mean 'views.orbit.type'?",
    "views=null": "views: missing; --views needs a 'views:' block",
}


@pytest.mark.parametrize("override", FAULTS)
def test_bad_input(
    override: str, ball_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, one line, nothing half-written, before the prior starts."""
    monkeypatch.setitem(sys.modules, "rembg", None)  # as if not installed
    Image.effect_noise((64, 64), 90).convert("RGB").save("opaque.png")
    Image.new("RGBA", (64, 64)).save("clear.png")
    dot = Image.new("RGBA", (64, 64))
    dot.paste((9, 9, 9, 255), (20, 20, 25, 25))
    dot.save("dot.png")
    others = [word for word in VIEWS if not override.startswith(f"{word.partition('=')[0]}=")]
    arguments = [*others, override] if override != "views=null" else ["--config", "bare.yaml", "--views"]
    Path("bare.yaml").write_text("system: tiny-sphere\n")
    code, errors = main(arguments), capsys.readouterr().err
    assert code == 2 and len(errors.splitlines()) == 1 and errors.startswith("error: "), errors
    assert FAULTS[override] in errors
    assert not Path("runs").exists() and not Path("cache").exists() and not TinyBall.prompts
