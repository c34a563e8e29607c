"""Runs from Python: the same folders as from the command line, with events in between."""

import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from helpers.tiny_prior import QUICK, TinyBall
from PIL import Image

import liftstudio as ls
from liftstudio.cli.command_line import main
from liftstudio.core.logs import read_messages
from liftstudio.studio.pipeline import as_picture, as_words

SMALL = {"device": "cpu", "tag": "a"}
# One stage that starts from the volume, in seconds.
SURFACE = {
    **dict(word.split("=") for word in QUICK if "coarse" not in word and "fine" not in word),
    "prior.weights": "ball.safetensors",
    "prior.knows_inside": True,
    "device": "cpu",
    "views.elevation_deg": 10,
    "system.stages.surface.steps": 4,
    "system.stages.surface.geometry.resolution": 16,
}


def bytes_of(folder: Path) -> dict[str, bytes]:
    names = ("export/mesh.ply", "views/002.png")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_leaves_what_the_command_line_leaves(ball_project: Path) -> None:
    assert main(["--config", "ball.yaml", "--train", "image=photo.png", "device=cpu", "tag=a"]) == 0
    result = ls.lift("photo.png", config="ball.yaml", overrides=SMALL)
    assert result.folder == Path("runs/ball/a-2")
    assert bytes_of(result.folder) == bytes_of(Path("runs/ball/a"))
    assert result.metrics["export"]["faces"] == len(result.mesh.faces) and isinstance(result.mesh, trimesh.Trimesh)
    assert set(result.files) == {"ply"}
    stored = trimesh.load(result.files["ply"], process=False)  # z up
    x, y, z = stored.vertices.T
    assert np.allclose(result.mesh.vertices, np.stack([x, z, -y], axis=1))
    assert len(result.views) == len(result.cameras) == 6 and result.views[0].size == (48, 48)
    assert np.array_equal(np.asarray(result.views[2]), np.asarray(Image.open(result.folder / "views/002.png")))


def test_events_say_what_goes_on(ball_project: Path) -> None:
    studio = ls.Pipeline.from_config("ball.yaml", device="cpu")
    events = list(studio.stream("photo.png", preview_every_s=0.0))
    stages = list(dict.fromkeys(event.stage for event in events if event.stage))
    assert stages == ["views", "first", "second", "test", "export"]
    steps = [event for event in events if event.stage == "second"]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6] and steps[2].fraction == 0.5
    assert all(event.total == 6 and math.isfinite(event.losses["loss"]) and event.eta_s >= 0 for event in steps)
    assert all(event.image.size[0] > 8 and event.image.mode == "RGB" for event in steps)
    assert any("run folder: runs/ball" in event.text for event in events)
    assert [event.result is not None for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].folder == events[-1].result.folder and steps[0].folder == events[-1].folder


def test_the_prior_is_loaded_once(ball_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ball.safetensors").rename("own.safetensors")
    loads = []
    original = TinyBall.__init__
    monkeypatch.setattr(TinyBall, "__init__", lambda self, *a, **k: (loads.append(1), original(self, *a, **k))[1])
    studio = ls.Pipeline.from_config(
        "ball.yaml", device="cpu", overrides={"views.cache": False, "prior.weights": "own.safetensors"}
    )
    first, second = studio("photo.png"), studio.views("photo.png", overrides={"views.seed": 1})
    assert len(loads) == 1 and len(TinyBall.prompts) == 2
    assert (first.folder / "views/002.png").read_bytes() != (second.folder / "views/002.png").read_bytes()


def test_pixels_in_any_form(ball_project: Path) -> None:
    image = Image.open("photo.png")
    forms = [image, np.asarray(image), torch.from_numpy(np.asarray(image).copy()), np.asarray(image) / 255]
    studio = ls.Pipeline.from_config("ball.yaml", device="cpu")
    results = [studio.views(form) for form in ["photo.png", *forms]]
    views = {result.folder.joinpath("views/002.png").read_bytes() for result in results}
    assert len(views) == 1 and len(TinyBall.prompts) == 1, "the same pixels are the same input"
    assert len(list(Path("runs/inputs").iterdir())) == 1


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((8, 8)), r"expected an array \[height, width, 3 or 4\], got \(8, 8\)"),
        (np.full((8, 8, 3), 2.0), "expected values of uint8, or floats from 0 to 1"),
        (np.full((8, 8, 3), np.nan), "expected values of uint8, or floats from 0 to 1"),
        (np.zeros((8, 8, 3), np.int64), "expected values of uint8, or floats from 0 to 1"),
    ],
)
def test_bad_pixels(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ls.InputError, match=message):
        as_picture(pixels)


def test_faults_are_raised_where_the_call_is(ball_project: Path) -> None:
    with pytest.raises(ls.InputError, match="did you mean 'seed'"):
        ls.Pipeline.from_config("ball.yaml", overrides={"sede": 1})
    with pytest.raises(ls.InputError, match="did you mean 'sv3d-masked-sds'"):
        ls.Pipeline.from_config("sv3d-maskd-sds")
    studio = ls.Pipeline.from_config("ball.yaml", device="cpu")
    with pytest.raises(ls.InputError, match=r"no\.png: no such image"):
        studio("no.png")
    with pytest.raises(ls.InputError, match=r"expected the config\.yaml of a run folder"):
        ls.Result.of("capture")
    assert not Path("runs").exists() and not TinyBall.prompts


def test_a_run_keeps_what_it_said(ball_project: Path) -> None:
    result = ls.lift("photo.png", config="ball.yaml", overrides=SMALL)
    said = read_messages(result.run.messages)
    assert "run folder: runs/ball/a" in said and any(text.startswith("export: ") for text in said)
    assert said.index("views: prior ball.safetensors") < said.index("run folder: runs/ball/a")
    result.files["ply"].rename(result.run.export / "mesh.usdz")
    with pytest.raises(ls.InputError, match="usdz cannot be read back"):
        _ = ls.Result.of(result.folder).mesh


def test_a_failed_run_has_a_report(ball_project: Path) -> None:
    with pytest.raises(ls.InputError, match="not finite"):
        ls.lift("photo.png", config="ball.yaml", overrides={**SMALL, "system.nan_at": 3})
    folder = ls.Result.of("runs/ball/a").run
    assert folder.report.is_file() and any("error: stage first" in text for text in read_messages(folder.messages))


def test_a_stopped_run_goes_on_to_the_same_bytes(ball_project: Path) -> None:
    slow = {**SMALL, "system.seconds": 0.05}
    whole = ls.lift("photo.png", config="ball.yaml", overrides=slow)
    studio = ls.Pipeline.from_config("ball.yaml", overrides={**slow, "tag": "b"})
    with pytest.raises(ls.CancelledError, match=r"stopped at step \d of stage first") as stopped:
        for event in studio.stream("photo.png"):
            if event.step == 2:
                threading.Thread(target=studio.stop).start()
    assert stopped.value.folder == Path("runs/ball/b")
    assert list(stopped.value.folder.glob("checkpoints/step-*-first.ckpt"))
    assert bytes_of(studio.resume(stopped.value.folder).folder) == bytes_of(whole.folder)


def test_closing_the_iterator_stops_the_run(ball_project: Path) -> None:
    studio = ls.Pipeline.from_config("ball.yaml", overrides={**SMALL, "system.steps": 1000})
    before = set(threading.enumerate())
    events = studio.stream("photo.png")
    next(event for event in events if event.step == 2)
    events.close()
    assert not any(thread.name == "liftstudio train" for thread in set(threading.enumerate()) - before)
    assert list(Path("runs/ball/a/checkpoints").glob("step-*-first.ckpt"))
    sampled = ls.Pipeline.from_config("ball.yaml", overrides={**SMALL, "tag": "c", "views.cache": False}).stream(
        "photo.png"
    )
    next(event for event in sampled if event.stage == "views")
    sampled.close()
    assert not Path("runs/ball/c").exists()


def test_looking_changes_nothing(ball_project: Path, small_covering_views: None) -> None:
    studio = ls.Pipeline.from_config("sv3d-masked-sds", overrides=SURFACE)
    plain, *_, last = studio("photo.png"), *studio.stream("photo.png", preview_every_s=0.0)
    assert last.result.folder != plain.folder
    meshes = [result.folder.joinpath("export/mesh.glb").read_bytes() for result in (plain, last.result)]
    assert meshes[0] == meshes[1]


def test_the_mesh_of_a_preview(ball_project: Path) -> None:
    studio = ls.Pipeline.from_config("ball.yaml", device="cpu", overrides={"prior.knows_inside": True})
    result = studio.preview("photo.png")
    shown = ls.render(result.mesh, ls.orbit(1, 10, pixels=64))[0]
    photo = ls.load_image("photo.png", elevation_deg=10, pixels=64).image
    inside = shown[..., 3] > 0.99
    assert (shown[..., :3] - photo)[inside].abs().mean() < 0.08, "the colours of the input, not those of linear light"
    assert result.mesh.is_watertight and result.files == {} and result.views == [] and result.cameras is None
    with pytest.raises(ls.InputError, match="no mesh yet"):
        _ = studio.views("photo.png", overrides={"prior.knows_inside": False}).mesh


def test_parts_alone(ball_project: Path) -> None:
    prior = ls.load_prior("ball.safetensors", type="tiny-ball", device="cpu")
    image = ls.load_image("photo.png", elevation_deg=10)
    assert image.image.shape == (256, 256, 3) and float(image.camera.elevation_deg) == pytest.approx(10)
    cameras = ls.orbit(4, 10, pixels=64)
    assert cameras.azimuth_deg.tolist() == pytest.approx([0, 90, 180, 270], abs=1e-3)
    images, masks = prior.sample(image, cameras[[1, 2, 3, 0]])
    assert images.shape == (4, 32, 32, 3) and masks.shape == (4, 32, 32, 1) and 0.2 < masks.mean() < 0.8
    sphere = trimesh.creation.icosphere(3, 0.7)
    sphere.visual.vertex_colors = np.tile(np.array([255, 0, 0, 255], np.uint8), (len(sphere.vertices), 1))
    seen = ls.render(sphere, cameras)
    assert seen.shape == (4, 64, 64, 4) and torch.allclose(seen[0, 32, 32], torch.tensor([1.0, 0, 0, 1]), atol=0.01)
    assert ls.metrics.silhouette_iou(seen[..., 3:], seen[..., 3:]).min() > 0.99
    sphere.apply_scale(0.5).export("sphere.ply")
    mesh = ls.read_mesh("sphere.ply")
    assert ls.metrics.chamfer(mesh, mesh) == 0
    report = ls.export.export_mesh(
        mesh, lambda points: points.abs(), Path("out"), ls.export.ExportConfig(formats=["glb"], texture_size=64)
    )
    assert report["faces"] == len(mesh.faces) and Path("out/mesh.glb").is_file()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ls.load_image(None), "load_image: path: expected text or a path, got None"),
        (lambda: ls.load_image("photo.png", pixels=0), "load_image: pixels: expected 1 to 4096, got 0"),
        (lambda: ls.orbit(-3), "orbit: frames: expected 1 or more, got -3"),
        (lambda: ls.orbit(0), "orbit: frames: expected 1 or more, got 0"),
        (lambda: ls.orbit(4, math.nan), "orbit: elevation_deg: expected -89"),
        (lambda: ls.render(None, None), "render: mesh: expected Trimesh, got None"),
        (lambda: ls.lift(5), "lift: image: expected"),
        (lambda: ls.lift("photo.png", overrides=[1]), "lift: overrides: expected a dictionary or None, got list"),
        (lambda: ls.Pipeline(None), "Pipeline: config: expected text or a path, got None"),
        (lambda: ls.Pipeline.from_config("ball.yaml")("photo.png", 5), "Pipeline: too many positional arguments"),
        (lambda: ls.Pipeline.from_config("ball.yaml").views("photo.png", sede=1), "Pipeline.stream: got an unexpected"),
        (lambda: ls.Result.of(None), "Result.of: folder: expected text or a path, got None"),
        (lambda: ls.read_mesh(None), "read_mesh: path: expected text or a path, got None"),
        (lambda: ls.metrics.chamfer(None, 1), "chamfer: prediction: expected Mesh, got None"),
        (lambda: ls.load_prior(3), "load_prior: weights: expected text, got 3"),
        (lambda: ls.export.export_mesh(None, None, None, None), "export_mesh: mesh: expected Mesh, got None"),
    ],
)
def test_misuse_is_named(ball_project: Path, call: Callable[[], object], message: str) -> None:
    with pytest.raises(ls.InputError) as refused:
        call()
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)


def test_overrides_are_words_of_the_command_line() -> None:
    words = as_words({"a.b": 1, "c": True, "d": None, "e": "x y", "f": [1, 2], "g": {"front": "a.png"}})
    assert words == ["a.b=1", "c=true", "d=null", "e=x y", "f=[1, 2]", 'g={"front": "a.png"}']


def test_the_import_is_quick() -> None:
    assert "torch" not in ls.__dict__ and set(ls.__all__) <= set(dir(ls))
    with pytest.raises(AttributeError, match="no attribute 'lft'"):
        _ = ls.lft
