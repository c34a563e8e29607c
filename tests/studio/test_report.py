"""The report of a run: what it shows, of whole and broken runs, and that it needs nothing from outside."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import trimesh
from helpers.pages import LIMIT, Page, check_is_offline
from helpers.run_folders import METRICS, make_run, textured_sphere
from helpers.tiny_prior import write_ball
from PIL import Image

from liftstudio.cli.command_line import BAD_INPUT, main
from liftstudio.export.repair import Repair
from liftstudio.run.folder import RunFolder
from liftstudio.studio.report.charts import loss_charts
from liftstudio.studio.report.page import write_report
from liftstudio.studio.report.scene import embedded_mesh


def report(folder: RunFolder) -> Page:
    path = write_report(folder)
    assert path == folder.path / "report.html" and path.stat().st_size < LIMIT
    return Page(path)


@pytest.fixture
def runs(here: Path) -> Path:
    return here / "runs"


def test_every_job_leaves_a_report(ball_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["--config", "ball.yaml", "image=photo.png", "device=cpu", "tag=a", "prior.knows_inside=true"]
    folder, path = Path("runs/ball/a"), Path("runs/ball/a/report.html")
    assert main([*new, "--views"]) == 0
    assert f"report: {path}" in capsys.readouterr().out
    page = Page(path)
    assert f"continued by liftstudio --config {folder}/config.yaml --resume" in page.text
    assert f"liftstudio --config {folder}/config.yaml --views" in page.text and page.count("svg") == 0
    assert "3D scene of preview.glb" in [own.get("title") for _, own in page.tags]
    check_is_offline(page, folder)
    assert main(["--config", str(folder), "--resume", "export.formats=[glb]"]) == 0
    page = Page(path)
    assert "has not reached its end" not in page.text and "Watertight yes" in page.text
    assert "3D scene of export/mesh.glb" in [own.get("title") for _, own in page.tags]
    assert page.count("video") == 3 and page.count("svg") > 1 and "photo.png" in page.text
    assert "the tiny ball is at https://example.org/ball" in page.text
    check_is_offline(page, folder)
    path.unlink()
    assert main(["--config", str(folder), "--test"]) == 0 and path.is_file()
    path.unlink()
    assert main(["report", str(folder)]) == 0 and path.is_file()


def test_what_it_says(runs: Path) -> None:
    folder = make_run(runs, "image=asset://demo/objects/sofa.png", "system.light.lobes=12", prompt="a sofa")
    page = report(folder)
    for text in (
        "“a sofa”",
        "sofa.png",
        "21.0° above the horizon",
        "PSNR 21.5 dB ↑ higher is better",
        "Chamfer distance 0.02 ↓ lower is better",
        "F-score at 0.01 0.6 ↑",
        "Normal consistency -",
        "Faces 320",
        "Watertight yes",
        "64 x 64 texels",
        "1 x 1 x 1",
        "surface 20 of 20 12.5 0.70 GB",
        "Changed from the packaged config sv3d-masked-sds",
        "system.light.lobes 24 12",
        f"liftstudio --config {folder.config} --train",
        "torch 2.9",
        "asset://priors/objects : Apache-2.0, like the project",
        "asset://priors/elevation : Apache-2.0",
    ):
        assert text in page.text, text
    assert page.count("svg") == 2 and "views/rgb" in page.text and "memory_gb, last" not in page.text
    changed = page.text.partition("Changed from")[2].partition("All options")[0]
    assert "views.image" not in changed and "tag" not in changed, "nothing is said twice, or of places"
    check_is_offline(page, folder.path)


def test_repair_and_remeshing_are_told(runs: Path) -> None:
    metrics = json.loads(json.dumps(METRICS))
    metrics["export"] |= {
        "repair": asdict(Repair(False, True, 7, 6, 5, 4, 3, 0.025)),
        "remesh": {
            "kind": "quads",
            "edge_length": {"target": 0.03, "mean": 0.0295, "std": 0.0022},
            "quads": 0.995,
            "distance": {"mean": 0.00044, "max": 0.0087},
        },
    }
    page = report(make_run(runs, metrics=metrics))
    for text in (
        "Watertight before repair no",
        "Watertight after repair yes",
        "Vertices merged 7",
        "Faces turned over 6",
        "Faces removed by repair 5",
        "Holes filled 4, 2.5 % of the area",
        "Remeshed to quads",
        "Share of quads 99.5 %",
        "Edge length, world units 0.0295 ± 0.0022, wanted 0.03",
        "Distance to the surface before 0.00044 on average, at most 0.0087",
    ):
        assert text in page.text, text


def test_text_is_escaped(runs: Path, here: Path) -> None:
    evil = "<script>window.hacked=1</script><img src=x onerror=alert(1)>"
    picture = write_ball(here / "a&lt;b\"'><i>.png")
    plain = report(make_run(runs, f"image={picture}", prompt="plain"))
    folder = make_run(runs, f"image={picture}", f"prior.weights={evil}", tag="b", prompt=evil)
    metrics = json.loads(json.dumps(METRICS))
    metrics["run"] |= {"stages": {evil: {"steps": 3, "seconds": 1}}, "device": evil, "versions": {evil: evil}}
    metrics["novel_views"] = {evil: 1.0}
    metrics["elevation"]["by_hand"] = evil
    folder.metrics.write_text(json.dumps(metrics))
    folder.log_csv.write_text(f"total_step,stage,step,{evil}\n1,{evil},1,2.0\n")
    folder.note_command(evil)
    (folder.path / "images" / "<b>").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder.path / "images" / "<b>" / "1.png")
    page = report(folder)
    assert evil in page.text
    assert page.count("script") == plain.count("script") and page.count("b") == plain.count("b")
    assert page.count("i") == 0 and not any("onerror" in own for _, own in page.tags)
    check_is_offline(page, folder.path)


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"run": 3, "test": {"training": [1]}, "export": "x", "mesh": {"chamfer": NaN, "iou": "1"}}', "\x00"],
)
def test_faulty_metrics(runs: Path, text: str) -> None:
    folder = make_run(runs)
    folder.metrics.write_text(text)
    page = report(folder)
    assert ("metrics.json: not readable" in page.text) == (not text.startswith('{"'))
    assert "PSNR" not in page.text and "Losses" in page.text


def test_a_killed_run(runs: Path) -> None:
    folder = make_run(runs, metrics={})
    for path in folder.export.iterdir():
        path.unlink()
    folder.metrics.unlink()
    with folder.log_csv.open("a") as file:
        file.write("22,surface,2")  # half a row
    page = report(folder)
    assert "has not reached its end" in page.text and "surface 20" in page.text and page.count("svg") == 2
    (folder.path / "views/contact_sheet.png").write_bytes(b"\x89PNG\r\n")
    folder.config.write_text("{")
    folder.export.joinpath("mesh.glb").write_bytes(b"glTF")
    page = report(folder)
    for text in ("not a readable YAML file", "views/contact_sheet.png: not readable", "mesh.glb: not shown"):
        assert text in page.text, text


def test_pictures_that_changed_or_went(runs: Path, here: Path) -> None:
    picture = write_ball(here / "ball.png")
    folder = make_run(runs, f"image={picture}")
    assert "changed since" not in report(folder).text
    write_ball(picture, size=100)
    assert "the picture has changed since the run began" in report(folder).text
    picture.unlink()
    assert "ball.png: no such image" in report(folder).text


def test_a_failing_report_does_not_fail_the_run(
    ball_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("liftstudio.studio.report.page.write_report", fail)
    assert main(["--config", "ball.yaml", "image=photo.png", "device=cpu", "--views"]) == 0
    assert capsys.readouterr().err.splitlines() == ["warning: report: not written (OSError: disk full)"]


def test_bad_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nothing"]) == BAD_INPUT
    assert "nothing: expected the config.yaml of a run folder" in capsys.readouterr().err
    assert main(["report"]) == BAD_INPUT


def test_a_large_mesh_is_simplified(here: Path) -> None:
    textured_sphere(1024).export("fine.glb")
    whole, note = embedded_mesh(Path("fine.glb"), {})
    assert note == "" and len(whole) > 300_000
    reduced, note = embedded_mesh(Path("fine.glb"), {}, 200_000)
    assert len(reduced) <= 200_000 and note == "texture reduced to 512 texels"
    textured_sphere(16, 5).export("many.glb")
    decimated, note = embedded_mesh(Path("many.glb"), {}, 100_000)
    assert len(decimated) <= 130_000 and re.match(r"2\d\d\d of 20480 faces", note)
    Path("decimated.glb").write_bytes(decimated)
    mesh = trimesh.load("decimated.glb", force="mesh")
    above = mesh.visual.vertex_colors[mesh.vertices[:, 1] > 0.2]
    assert (above[:, 2] < 50).mean() > 0.99 or (above[:, 0] < 50).mean() > 0.99, "one colour, not a mixture"


def test_a_report_stays_small(runs: Path) -> None:
    folder = make_run(runs, texture=2048)
    (folder.test / "turntable.mp4").write_bytes(bytes(5_000_000))
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder.test / "contact_sheet.png")
    page = report(folder)
    assert "too large to be embedded, see test/turntable.mp4" in page.text


def test_up_is_up_from_any_file(here: Path) -> None:
    box = trimesh.creation.box((1, 1, 3))
    box.visual.vertex_colors = np.tile(np.array([188, 0, 0, 255], np.uint8), (len(box.vertices), 1))
    box.export("box.ply")
    Path("box.glb").write_bytes(embedded_mesh(Path("box.ply"), {"export": {"up_axis": {"ply": "z"}}})[0])
    mesh = trimesh.load("box.glb", force="mesh")
    assert mesh.extents == pytest.approx([1, 3, 1])
    assert int(mesh.visual.vertex_colors[0, 0]) == pytest.approx(128, abs=2), "linear, as glTF demands"


def test_charts() -> None:
    rows = [{"total_step": s, "step": s, "loss": 1000.0 / s, "a": 1.0, "memory_gb": 1.0} for s in range(1, 1001)]
    loss, constant = loss_charts([*rows, {"total_step": 1001.0, "step": 1001.0, "loss": 1.0}])
    assert loss.title == "loss" and loss.is_log and loss.start == 1 and loss.end == 1001 and loss.last == 1.0
    assert len(loss.points.split()) <= 200 and not constant.is_log
    heights = [float(point.split(",")[1]) for point in loss.points.split()]
    assert heights == sorted(heights) and heights[0] == 0 and heights[-1] == 90
    (single,) = loss_charts([{"total_step": 5, "step": 5, "loss": 0.0}])
    assert single.points == "0.0,90.0"
