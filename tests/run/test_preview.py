"""The preview: the volume of the prior as a coloured mesh, from `--preview` alone and before the stages of any run."""

import json
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
import trimesh
from helpers.tiny_prior import TinyBall, ball
from helpers.tiny_scenes import is_closed
from PIL import Image
from torch import Tensor

from liftstudio.cli.command_line import main
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import straight_from_white
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.base import Prior
from liftstudio.run.preview import preview_mesh, render_colors, seen_colors

RADIUS = 0.6
PREVIEW = ["--config", "ball.yaml", "--preview", "image=photo.png", "device=cpu", "tag=a", "prior.knows_inside=true"]
FILES = {"preview.glb", "preview.mp4", "preview.png"}


def volume(cells: int = 64) -> Tensor:
    axis = (2 * torch.arange(cells) + 1) / cells - 1
    distance = torch.cartesian_prod(axis, axis, axis).norm(dim=-1)
    return torch.tanh(8 * (RADIUS - distance)).reshape([cells] * 3)


def views_of_ball(azimuths: list[float], input_view: int | None = None) -> ReferenceViews:
    """Return views of the ball coloured by its normals; the input view is all red."""
    azimuth = torch.tensor(azimuths)
    cameras = orbit_cameras(azimuth, torch.full_like(azimuth, 10.0), 3.6, 33.8, 128, 128)
    images, masks = ball(cameras, RADIUS)
    images = straight_from_white(images, masks)
    if input_view is not None:
        images[input_view] = torch.tensor([1.0, 0.0, 0.0])
    names = tuple(map(str, azimuths))
    held_out = torch.zeros(len(azimuth), dtype=torch.bool)
    return ReferenceViews(
        images, masks, cameras, names, held_out, input_views=() if input_view is None else (input_view,)
    )


def test_the_surface_is_where_the_volume_changes_sign() -> None:
    mesh = preview_mesh(volume())
    assert is_closed(mesh)
    radii = mesh.vertices.norm(dim=-1)
    assert (radii - RADIUS).abs().max() < 0.01  # a third of a cell


def test_a_shape_that_fills_the_volume_is_closed_and_specks_are_dropped() -> None:
    full = torch.ones(32, 32, 32)
    assert is_closed(preview_mesh(full))
    speck = volume()
    speck[:2, :2, :2] = 1
    assert preview_mesh(speck).vertices.norm(dim=-1).max() < RADIUS + 0.01


def test_colors_are_those_of_the_views() -> None:
    mesh = preview_mesh(volume())
    colors = seen_colors(mesh, views_of_ball([0.0, 60.0, 120.0, 180.0, 240.0, 300.0]))
    true = 0.5 + 0.4 * mesh.vertices / RADIUS
    seen = mesh.vertices[:, 2].abs() < 0.8 * RADIUS  # not the poles
    assert (colors - true)[seen].abs().max() < 0.06
    assert (colors - true)[seen].abs().mean() < 0.01


def test_the_input_view_decides_what_it_sees_and_nothing_else() -> None:
    mesh = preview_mesh(volume())
    colors = seen_colors(mesh, views_of_ball([0.0, 60.0, 120.0, 180.0, 240.0, 300.0], input_view=0))
    front, back = mesh.vertices[:, 0] > 0.8 * RADIUS, mesh.vertices[:, 0] < -0.1
    assert (colors[front] - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 0.15
    true = 0.5 + 0.4 * mesh.vertices / RADIUS
    level = mesh.vertices[:, 2].abs() < 0.8 * RADIUS
    assert (colors - true)[back & level].abs().max() < 0.06


def test_unseen_points_take_the_nearest_color() -> None:
    mesh = preview_mesh(volume())
    colors = seen_colors(mesh, views_of_ball([0.0], input_view=0))
    assert (colors - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 0.01  # the back too, not black or white


def test_pictures_are_over_white() -> None:
    mesh = preview_mesh(volume())
    views = views_of_ball([0.0, 120.0, 240.0])
    pictures = render_colors(mesh, seen_colors(mesh, views), views.cameras)
    assert torch.equal(pictures[:, 0, 0], torch.ones(3, 3))
    assert (pictures - views.over(1.0)).abs().mean() < 0.01


def test_the_preview_alone(ball_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PREVIEW) == 0
    run = Path("runs/ball/a")
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "command.txt",
        "messages.txt",
        "report.html",
        "checkpoints",
    } | FILES
    assert "runs/ball/a/preview.glb" in capsys.readouterr().out
    mesh = trimesh.load(run / "preview.glb", force="mesh")
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * torch.pi * 0.7**3, rel=0.02)
    x, y, z = mesh.vertices.T  # y up: the world's z is y, its y is -z
    linear = mesh.visual.vertex_colors[:, :3] / 255
    front = x > 0.6  # the normal's x is near 1: sRGB .9, linear .787
    assert linear[front, 0].mean() == pytest.approx(0.787, abs=0.04)
    assert linear[(y < 0.3) & (y > -0.3) & (z < -0.6), 1].mean() == pytest.approx(0.75, abs=0.08)
    width, height = next(imageio_ffmpeg.read_frames(str(run / "preview.mp4")))["size"]
    assert (width, height) == (256, 256) and Image.open(run / "preview.png").size == (1024, 512)


def test_a_run_goes_on_from_the_preview(ball_project: Path) -> None:
    assert main(PREVIEW) == 0
    before = Path("runs/ball/a/preview.glb").read_bytes()
    assert main(["--config", "runs/ball/a/config.yaml", "--resume"]) == 0
    assert Path("runs/ball/a/export/mesh.ply").is_file() and len(TinyBall.prompts) == 1
    assert Path("runs/ball/a/preview.glb").read_bytes() == before
    assert (Path("runs/ball/a/views") / "transforms.json").is_file()


def test_other_modes_leave_the_same_preview(ball_project: Path) -> None:
    for mode in ("--preview", "--train", "--views"):
        assert main([mode if word == "--preview" else word for word in PREVIEW]) == 0
    for name in FILES:
        for other in ("a-2", "a-3"):
            assert (Path("runs/ball/a") / name).read_bytes() == (Path("runs/ball") / other / name).read_bytes()


def test_without_a_volume_there_is_none(ball_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PREVIEW[:-1]) == 2
    assert "error: --preview: these views come with no volume" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert main([(word == "--preview" and "--train") or word for word in PREVIEW[:-1]]) == 0
    assert not Path("runs/ball/a/preview.glb").exists()
    assert "stages" in json.loads(Path("runs/ball/a/metrics.json").read_text())["run"]


def test_an_empty_volume_does_not_stop_a_run(
    ball_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TinyBall, "inside", lambda self, posed, points: -torch.ones(len(points)))
    assert main([(word == "--preview" and "--train") or word for word in PREVIEW]) == 0
    assert Path("runs/ball/a/export/mesh.ply").is_file() and not Path("runs/ball/a/preview.glb").exists()
    assert "preview: none, since the volume of the prior is empty" in capsys.readouterr().err
    assert main([word if word != "tag=a" else "tag=b" for word in PREVIEW]) == 2
    assert "error: --preview: the volume of the prior is empty" in capsys.readouterr().err
    assert not Path("runs/ball/b").exists()


def test_views_are_enhanced_after_the_preview(ball_project: Path) -> None:
    """The preview does without; the run that goes on from it has the same enhanced views as any other."""
    enhanced = [*PREVIEW, "views.resolution=64", "views.enhance.type=image-analogy"]
    assert main(enhanced) == 0
    assert not Path("runs/ball/a/checkpoints/inputs.ckpt").exists()
    assert main(["--config", "runs/ball/a/config.yaml", "--resume"]) == 0
    assert main(["--views" if word == "--preview" else word for word in enhanced]) == 0
    assert main(["--views" if word == "--preview" else word for word in enhanced[:-1]]) == 0
    resumed, views, plain = (Path(f"runs/ball/{tag}/views/002.png").read_bytes() for tag in ("a", "a-2", "a-3"))
    assert resumed == views != plain


def test_a_prior_that_has_no_volume_is_refused_before_it_is_sampled(
    ball_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyBall, "inside", Prior.inside)
    assert main(PREVIEW) == 2
    assert "error: --preview: these views come with no volume" in capsys.readouterr().err
    assert not TinyBall.prompts and not Path("runs").exists()
    assert main(["--config", "tiny.yaml", "--preview", "data.path=capture"]) == 2
    assert "error: --preview: these views come with no volume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [("nope", "from: expected 'prior', since this is the first stage"), ("prior", "from: there is no volume to start")],
)
def test_mistakes_in_stages_are_found_before_the_views(
    source: str,
    message: str,
    ball_project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TinyBall, "inside", Prior.inside)
    geometry = f"{{type: dmtet, from: {source}}}"
    stage = f"{{steps: 1, geometry: {geometry}, renderer: surface, guidance: {{views: reconstruction}}}}"
    (Path("stages.yaml")).write_text(
        Path("ball.yaml").read_text().replace("type: tiny-sphere", f"type: coarse-to-fine\n  stages: {{fine: {stage}}}")
    )
    assert (
        main(["--train" if word == "--preview" else word.replace("ball.yaml", "stages.yaml") for word in PREVIEW]) == 2
    )
    assert f"error: system.stages.fine.geometry.{message}" in capsys.readouterr().err
    assert not TinyBall.prompts and not Path("runs").exists()
