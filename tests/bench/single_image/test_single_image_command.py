"""The single-image benchmark of real objects, from its command line to its rows."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from ball_captures import PRIOR, chosen, measure, setting_of, write_capture
from helpers.tiny_prior import QUICK, TinyBall, write_weights

from bench import runs, single_image, single_image_tables
from bench.single_image_tasks import Setting, Task, reconstruct
from liftstudio.cli import command_line
from liftstudio.core import assets
from liftstudio.core.logs import WorkProgress
from liftstudio.data.images import load_image
from liftstudio.priors.elevation import Elevation, ElevationEstimator


def test_views_of_an_exact_prior_and_reuse_of_rows() -> None:
    rows = measure("--views-only", *PRIOR)
    assert {(row["object"], row["row"], row["pixels"]) for row in rows} == {
        (name, row, pixels)
        for name in ("blue_ball1", "red_ball")
        for row in ("one evaluation", "sampled")
        for pixels in (32, 64)
    }
    for row in rows:  # one ray a pixel of the prior's, against the mean of four pixels: outlines differ
        assert row["psnr"] > 20 and row["silhouette_iou"] > 0.95
        assert ("contextual_to_picture" in row) == (row["pixels"] == 64)
    asked = len(TinyBall.prompts)
    assert measure("--views-only", *PRIOR) == rows and len(TinyBall.prompts) == asked
    again = measure("--views-only", "--only", "red_ball", "--view", "001.png", *PRIOR)
    assert len(again) == len(rows) + 4 and again[-1]["view"] == "001.png"
    # From there the world is rotated by 60 degrees: outlines stay, the colours of a ball rotate.
    assert again[-1]["silhouette_iou"] > 0.95 and again[-1]["psnr"] < rows[-1]["psnr"] - 3
    write_weights(Path("ball.safetensors"), radius=0.7)  # other weights in the same file
    smaller = measure("--views-only", "--only", "red_ball", *PRIOR)
    assert len(smaller) == len(again) + 4
    assert smaller[-1]["silhouette_iou"] < rows[-1]["silhouette_iou"] - 0.2


def test_the_elevation_may_be_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Elevation(torch.tensor([12.0]), torch.tensor([4.0]))
    monkeypatch.setattr(ElevationEstimator, "__call__", lambda *_: found)
    measure("--views-only", "--only", "red_ball", "--estimate-elevation", *PRIOR)
    assert float(TinyBall.prompts[-1].camera.elevation_deg) == pytest.approx(12, abs=1e-3)


def test_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--views-only", "--baselines", "repeated", "inflate", "mean", "--table", "syncdreamer", "--sheet", "s.png")
    rows = measure("--only", "blue_ball1", *words, *PRIOR)
    repeated, inflated, mean = (chosen(rows, kind=kind, pixels=64) for kind in ("repeated", "inflate", "mean"))
    assert repeated["silhouette_iou"] > 0.97 and repeated["psnr"] < 25 and "chamfer" not in repeated
    assert inflated["iou"] > 0.85 and inflated["chamfer"] < 0.02 and inflated["silhouette_iou"] > 0.9
    assert mean["iou"] > 0.95 and mean["chamfer"] < 0.01 and mean["psnr"] == 100  # both are the same ball
    assert mean["others"] == ["red_ball"]
    printed = capsys.readouterr().out
    assert "SyncDreamer (published)" in printed and "2312.15980" in printed and "mean object" in printed
    height, width, _ = load_image("s.png")[0].shape
    assert width == 8 * 128 and height > 6 * 128


def test_captures_without_a_mesh_have_no_shape() -> None:
    write_capture(Path("objects/green_ball"), mesh=False)
    rows = measure("--only", "green_ball", "--views-only", "--baselines", "inflate", "mean", *PRIOR)
    assert not any("chamfer" in row for row in rows)
    assert chosen(rows, kind="inflate", pixels=64)["psnr"] > 10
    # Its silhouettes make it slightly too large, as the others' cameras are not its own.
    assert "psnr" not in chosen(rows, kind="mean")
    known = {"kind": "mesh", "method": "m", "pixels": 64, "psnr": 20.0}
    _, shapes = single_image_tables.tables(
        [{**known, "object": "a", "chamfer": 0.1}, {**known, "object": "b"}], by_box=True
    )
    assert {str(column.header): list(column.cells)[:2] for column in shapes.columns}["chamfer"] == ["0.1000", ""]


def test_a_run_from_capture_to_row() -> None:
    """One run, measured by the benchmark and, as its config names the truth, by itself."""
    options = [*QUICK, "views.resolution=32", "prior.weights=ball.safetensors", "truth.views=objects/blue_ball1"]
    task = Task("mesh", Setting("sv3d-masked-sds", tuple(options)), Path("objects/blue_ball1"))
    (row,) = reconstruct(task, Path("work"), Path("strips"))
    columns = single_image_tables.SHAPE | {"psnr": 2, "ssim": 3, "silhouette_iou": 3, "contextual_to_view": 3}
    assert all(math.isfinite(row[name]) for name in runs.with_cost(columns, [row]))
    # Thirty steps on nine small views: a rough shape where the ball is.
    assert row["iou"] > 0.1 and row["silhouette_iou"] > 0.3 and row["by_box"]["iou"] > row["iou"]
    assert row["coarse_s"] > 0 and row["memory_gb"] > 0
    (metrics,) = Path("work/runs").rglob("metrics.json")
    known = json.loads(metrics.read_text())
    assert known["mesh"]["chamfer"] == pytest.approx(row["chamfer"]) and known["mesh"]["iou"] == row["iou"]
    seen = known["novel_views"]
    assert seen["psnr"] == pytest.approx(row["psnr"], abs=1.5)  # by the system, and by what it exports
    assert seen["silhouette_iou"] == pytest.approx(row["silhouette_iou"], abs=0.05)
    assert "patches" in seen["contextual_by"] and seen["contextual_to_picture"] > 0
    saved = yaml.safe_load(metrics.with_name("config.yaml").read_text())
    assert saved["views"]["distance"] == pytest.approx(2.7, abs=1e-4) and saved["views"]["recenter"] is False
    assert load_image(row["strip"])[0].shape[1] == 8 * 128
    tables = single_image_tables.tables([{**row, "object": "a", "kind": "mesh", "method": "m"}], by_box=True)
    assert "bounding box" in str(tables[1].title)
    cells = {str(column.header): list(column.cells) for column in tables[1].columns}
    assert cells["iou"][0] == f"{row['by_box']['iou']:.3f}" and cells["object"] == ["a", "mean", "min", "max"]


def test_the_bundled_prior_is_a_baseline() -> None:
    setting = Setting("sv3d-masked-sds", (*PRIOR, "seed=3"))
    bundled = setting.bundled()
    assert setting.name == "sv3d-masked-sds, ball.safetensors" and bundled.name == "sv3d-masked-sds, priors/toys"
    assert bundled.weights != setting.weights and bundled.load("image=none").seed == 3
    words = ["objects", "--only", "red_ball", "--baselines", "toys"]
    tasks = single_image.plan(single_image._parse([*words, *PRIOR]))
    assert [(task.kind, task.setting) for task in tasks] == [
        (kind, each) for each in (setting_of(PRIOR), setting_of(PRIOR).bundled()) for kind in ("views", "mesh")
    ]
    own = "prior.weights=asset://priors/toys"
    alone = single_image.plan(single_image._parse([*words, "--views-only", own]))
    assert [task.setting for task in alone] == [setting_of((own,))]  # it is the user's own
    others = ("prior.precision=float32", "system.stages.fine.guidance.unseen.prior.weights=x.safetensors")
    kept = setting_of((*PRIOR, *others)).bundled().overrides
    assert kept == ("views.steps=3", *others, "prior.type=auto", "prior.weights=asset://priors/toys")


def test_an_object_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """This prior expects the input view last, and SyncDreamer's views begin with it; baselines need no prior."""
    words = ["objects", "--only", "red_ball", "--views-only", "--baselines", "repeated", "--results", "rows.jsonl"]
    code = single_image.main([*words, "--config", "syncdreamer-neus", *PRIOR])
    said = capsys.readouterr()
    assert (
        code == command_line.BAD_INPUT
        and "not measured: red_ball, views: " in said.err
        and "input repeated" in said.out
    )
    assert [row["kind"] for row in runs.read_rows(Path("rows.jsonl"))] == ["repeated"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: nowhere: no such folder"),
        ([str(assets.packaged("configs"))], "found no transforms.json"),
        (["objects", "--only", "cube"], "error: --only cube: no such capture in objects"),
        (["objects", "--config", "none"], "none.yaml"),
        (["objects", "--config", "reconstruct-views"], "image=none' has no effect"),
        (["objects", "--config", "mvdream"], "mvdream"),
        (["objects", "--view", "9.png", "--views-only"], "no view 9.png; there are 000.png"),
        (["objects", "prior.weights=none.safetensors"], "none.safetensors"),
        (
            ["objects/red_ball", "--baselines", "mean", "--views-only"],
            "has no other capture with a mesh",
        ),
        (["objects", "--views-only", "test.clip_weights=none"], "error: none: no such folder"),
        (
            ["objects", "test.raft_weights=none"],
            "error: RAFT: expected images whose sides are multiples of 8, at least",
        ),
        (["objects", "views.distance=3"], "'views.distance=3': the benchmark sets this option itself; leave it out"),
        (["objects", "export.formats=[obj]"], "'export.formats=[obj]': the benchmark sets this option itself"),
    ],
)
def test_bad_arguments_fail_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert single_image.main(words) == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not Path("runs").exists()


def test_a_mean_of_captures_without_a_mesh_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(Path("bare/one"), mesh=True)
    write_capture(Path("bare/two"), mesh=False)
    assert single_image.main(["bare", "--only", "one", "--views-only", "--baselines", "mean"]) == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert said.err == "error: --baselines mean: bare has no other capture with a mesh\n" and said.out == ""
    assert not Path("runs").exists()


def test_sampling_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, float]] = []
    monkeypatch.setattr(WorkProgress, "__call__", lambda self, step, fraction: shown.append((step, fraction)))
    measure("--only", "red_ball", "--views-only", *PRIOR)
    assert [text for text, _ in shown] == ["6 by tiny ball, 3 steps"] * 4
    assert [share for _, share in shown] == pytest.approx([0, 1 / 3, 2 / 3, 1])
