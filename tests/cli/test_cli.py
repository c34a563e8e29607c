"""The command line: modes, exit codes, run folders, response time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh
import yaml
from helpers.paths import ROOT

from liftstudio.cli import command_line
from liftstudio.cli.command_line import main

SLOW_TO_IMPORT = {
    "torch",
    "numpy",
    "numba",
    "scipy",
    "trimesh",
    "diffusers",
    "transformers",
    "lightning_fabric",
    "warp",
}
TRAIN = ["--config", "tiny.yaml", "--train", "data.path=capture", "device=cpu"]


def only_run() -> Path:
    (folder,) = Path("runs/tiny").iterdir()
    return folder


def test_train_makes_the_whole_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "log.tensorboard=true"]) == command_line.DONE
    folder = only_run()
    assert folder.name.startswith("capture-2")
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.yaml", "command.txt", "log.csv", "tb", "checkpoints", "images", "test", "export", "metrics.json"}
    wanted |= {"report.html", "messages.txt"}
    assert names == wanted
    assert (folder / "images" / "first" / "000005.png").is_file()
    assert (folder / "test" / "turntable.mp4").is_file() and list((folder / "export").iterdir())
    assert f"{command_line.program()} {' '.join(TRAIN)}" in (folder / "command.txt").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) >= {"run", "test", "export"}
    assert metrics["run"]["stages"]["second"]["steps"] == 6 and metrics["run"]["memory_gb"] > 0
    assert capsys.readouterr().err == ""


def test_modes_on_a_finished_run(project: Path) -> None:
    assert main([*TRAIN, "tag=a"]) == command_line.DONE
    config, folder = "runs/tiny/a/config.yaml", Path("runs/tiny/a")
    before = folder.joinpath("config.yaml").read_bytes()
    for path in [*folder.glob("test/*.png"), *folder.glob("images/*/*.png"), *folder.glob("export/*")]:
        path.unlink()
    assert main(["--config", config, "--validate"]) == command_line.DONE
    assert list(folder.glob("images/*/*.png")) == [folder / "images" / "second" / "000006.png"]
    assert main(["--config", str(folder), "--test"]) == command_line.DONE
    assert folder.joinpath("test", "contact_sheet.png").is_file() and not list(folder.glob("export/*"))
    assert main(["--config", config, "--export", "export.formats=[glb,obj]"]) == command_line.DONE
    suffixes = {path.suffix for path in folder.glob("export/*")}
    assert {".glb", ".obj"} <= suffixes and ".ply" not in suffixes
    assert folder.joinpath("config.yaml").read_bytes() == before
    assert len((folder / "command.txt").read_text().splitlines()) == 4


def test_the_exported_mesh_is_measured_in_any_format(project: Path) -> None:
    trimesh.creation.icosphere(2, radius=0.5).export("truth.obj")
    assert main([*TRAIN, "tag=a", "views.mesh=truth.obj", "export.formats=[obj,ply]"]) == command_line.DONE
    assert "chamfer" in json.loads(Path("runs/tiny/a/metrics.json").read_text())["mesh"]


def test_a_taken_tag_gets_a_number(project: Path) -> None:
    for _ in range(2):
        assert main([*TRAIN, "tag=same", "system.steps=1"]) == command_line.DONE
    assert {path.name for path in Path("runs/tiny").iterdir()} == {"same", "same-2"}


def test_the_written_config_trains_the_same_run_again(project: Path) -> None:
    assert main([*TRAIN, "tag=one"]) == command_line.DONE
    assert main(["--config", "runs/tiny/one/config.yaml", "--train"]) == command_line.DONE
    first, second = (yaml.safe_load(Path(f"runs/tiny/{t}/config.yaml").read_text()) for t in ("one", "one-2"))
    assert first == second
    exports = [
        [path.read_bytes() for path in sorted(Path(f"runs/tiny/{t}/export").iterdir())] for t in ("one", "one-2")
    ]
    assert exports[0] == exports[1]


@pytest.mark.parametrize("tag", ["../../escape", "a/b/c", "x" * 500, "a cat: 50% off {x}\n", "...", "ключ", "con\0"])
def test_any_tag_is_a_safe_short_folder(project: Path, tag: str) -> None:
    assert main([*TRAIN, f"tag={tag}", "system.steps=1"]) == command_line.DONE
    assert len(only_run().name) <= 60
    assert {path.name for path in project.iterdir()} == {"capture", "tiny.yaml", "runs"}


def test_a_prompt_is_literal_and_not_part_of_any_path(project: Path) -> None:
    config = (project / "tiny.yaml").read_text().replace("name:", "") + "prompt: ???\nname: ${prompt}\n"
    (project / "tiny.yaml").write_text(config)
    prompt = "a cat, 50% off: {x} ${seed} ../.."
    assert main([*TRAIN, "tag=a", f"prompt={prompt}", "system.steps=1"]) == command_line.DONE
    (folder,) = Path("runs").iterdir()
    assert folder.name == "a-cat-50-off-x-seed"
    assert main(["--config", str(folder / "a"), "--validate"]) == command_line.DONE, (
        "the written config reads the prompt back"
    )


def test_an_option_that_another_replaces_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "tag=a", "seed=1", "seed=2"]) == command_line.DONE
    assert capsys.readouterr().err == "warning: seed=1 has no effect, since seed=2 comes after it\n"
    assert yaml.safe_load(Path("runs/tiny/a/config.yaml").read_text())["seed"] == 2


def test_nan_stops_and_keeps_the_checkpoint(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "system.nan_at=4"]) == command_line.BAD_INPUT
    message = capsys.readouterr().err
    assert "stage first, step 5: color not finite" in message and len(message.splitlines()) == 1
    assert [path.name for path in only_run().glob("checkpoints/step*4*")] == ["step-00000004-first.ckpt"]


def test_out_of_memory_says_what_to_lower(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "system.memory_at=3"]) == command_line.OUT_OF_MEMORY
    message = capsys.readouterr().err
    assert "out of memory in system" in message and "try system.batch_size=4 (now 8)" in message
    assert (only_run() / "checkpoints" / "step-00000003-first.ckpt").exists(), "the state before that step"


def test_a_bug_is_one_line_and_a_traceback_with_debug(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers.tiny_system import TinySphere

    monkeypatch.delattr(TinySphere, "surface")
    monkeypatch.setattr(TinySphere, "__abstractmethods__", frozenset(), raising=False)
    assert main([*TRAIN, "system.steps=1"]) == command_line.BUG
    message = capsys.readouterr().err
    assert message.startswith("bug: ") and len(message.splitlines()) == 1
    assert main([*TRAIN, "system.steps=1", "--debug"]) == command_line.BUG
    assert "Traceback" in capsys.readouterr().err


def test_list_and_doctor(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == main(["--list", "system"]) == main(["--doctor"]) == command_line.DONE
    shown = capsys.readouterr().out
    assert "tiny-sphere  Fits the radius and colour of a sphere" in shown
    assert "hash_grid: numba" in shown and "threads for torch" in shown and "GB of memory" in shown


def test_a_failing_extension_is_named_and_skipped(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "custom" / "test-cli-broken").mkdir(parents=True)
    (project / "custom" / "test-cli-broken" / "__init__.py").write_text("1 / 0")
    assert main(["--list"]) == command_line.DONE
    assert capsys.readouterr().err == (
        "warning: extension 'test-cli-broken' failed to load: ZeroDivisionError: division by zero\n"
    )
    assert main(["--doctor"]) == command_line.DONE
    assert "test-cli-broken: failed" in capsys.readouterr().out


def imported_by(*arguments: str) -> tuple[set[str], subprocess.CompletedProcess[str]]:
    """Return which slow packages a command imports, which determines its response time."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-X", "importtime", str(ROOT / "launch.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert times
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if line not in times)
    return SLOW_TO_IMPORT & {line.rpartition("|")[2].strip() for line in times}, done


def test_help_is_quick() -> None:
    imported, done = imported_by("--help")
    assert done.returncode == 0 and "--train" in done.stdout
    assert not imported


# fault -> allowed imports before it is found: options of a component are read from its module, which needs torch
FAULTS: dict[str, set[str]] = {
    "sede=1": set(),
    "export.formats=[gltff]": set(),
    "test.frames=none": set(),
    "system.stages.fine.geometry.resolutoin=1": {"torch", "numpy"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_config_is_refused_quickly(tmp_path: Path, fault: str) -> None:
    config = ROOT / "configs" / "reconstruct-views.yaml"
    imported, done = imported_by("--config", str(config), "--train", f"runs_dir={tmp_path}", fault)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert imported <= FAULTS[fault] and not list(tmp_path.iterdir())


def test_a_packaged_config_is_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--copy-config", "sv3d-masked-sds"]) == command_line.DONE
    copied = (tmp_path / "sv3d-masked-sds.yaml").read_text()
    assert copied == (ROOT / "configs" / "sv3d-masked-sds.yaml").read_text()
    capsys.readouterr()
    (tmp_path / "sv3d-masked-sds.yaml").write_text("mine: 1\n")
    assert main(["--copy-config", "sv3d-masked-sds"]) == command_line.BAD_INPUT
    assert (tmp_path / "sv3d-masked-sds.yaml").read_text() == "mine: 1\n"
    assert "sv3d-masked-sds.yaml: " in capsys.readouterr().err
    assert main(["--copy-config", "sv3d-masked"]) == command_line.BAD_INPUT
