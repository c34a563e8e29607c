"""Bad input ends with exit code 2 and one clear line that names it: no traceback, nothing half-written."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_project import make_project
from PIL import Image

from liftstudio.cli.command_line import main

TRAIN = ["--config", "tiny.yaml", "--train", "device=cpu", "system.steps=1"]
DATA = "data.path=capture"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr of a command that must end with exit code 2 and leave no run folder."""
    code = main(arguments)
    errors = capsys.readouterr().err
    assert code == 2, f"exit code {code}: {errors}"
    assert len(errors.splitlines()) == 1 and errors.startswith("error: ") and "Traceback" not in errors, errors
    assert not Path("runs").exists() or not list(Path("runs").rglob("*")), "something half-written is left"
    return errors


COMMANDS = {
    "nothing": ([], "nothing to do"),
    "no config": (["--train"], "--train needs --config"),
    "two modes": (["--config", "tiny.yaml", "--train", "--test"], "not allowed with"),
    "unknown flag": ([*TRAIN, DATA, "--verbos"], "did you mean '--verbose'"),
    "option with dashes": ([*TRAIN, DATA, "--seed=3"], "seed=3"),
    "far unknown flag": ([*TRAIN, DATA, "-z"], "unknown flag '-z'"),
    "stray word": ([*TRAIN, DATA, "capture"], "'capture': expected a flag or key=value"),
    "no value": (["--config"], "--config: expected one argument"),
    "config missing": (["--config", "no.yaml", "--train"], "config not found: no.yaml"),
    "config is a folder": (["--config", "capture", "--train"], "config not found: capture (a folder)"),
    "config is a path of a folder": (["--config", "./capture/../capture", "--train"], "is a folder; expected a config"),
    "config is a picture": (["--config", "capture/0.png", "--train"], "capture/0.png: not a readable YAML"),
    "gpu words": ([*TRAIN, DATA, "--gpu", "first"], "--gpu: expected device numbers"),
    "gpu twice": ([*TRAIN, DATA, "--gpu", "1,1"], "--gpu: expected device numbers"),
    "gpu missing": ([*TRAIN, DATA, "--gpu", "99"], "--gpu 99: this machine has"),
    "unknown kind": (["--list", "geometri"], "did you mean 'geometry'"),
    "test without run": (["--config", "tiny.yaml", "--test"], "tiny.yaml: expected the config.yaml of a run folder"),
    "resume without run": (["--config", "no/config.yaml", "--resume"], "no/config.yaml: expected the config.yaml"),
    "input not given": (TRAIN, "data.path: missing; give it as data.path=..."),
    "input not read": ([*TRAIN, DATA, "image=a.png"], "'image=a.png' has no effect"),
    "box not read": ([*TRAIN, DATA, "image_box=[1,2,3,4]"], "'image_box=[1,2,3,4]' has no effect"),
    "prompt not read": ([*TRAIN, DATA, "prompt=a cat"], "'prompt=a cat' has no effect"),
    "prior not read": (
        [*TRAIN, DATA, "prior.weights=x.safetensors"],
        "'prior.weights=x.safetensors' has no effect: nothing in",
    ),
}

OPTIONS = {
    "sede=1": "unknown key 'sede'; did you mean 'seed'?",
    "seed=x": "seed: expected a whole number, got 'x'",
    "seed=-1": "seed: expected 0 to 4294967295, got -1",
    "device=gpu": "device: expected one of auto, cpu, cuda",
    "system.stepz=1": "unknown key 'system.stepz'; did you mean 'system.steps'?",
    "system.steps=many": "system.steps: expected a whole number",
    "system.steps=0": "system.steps: expected 1 or more, got 0",
    "system.lr=.nan": "system.lr: expected a finite number",
    "runs_dir=capture/0.png/x": "is no folder: ",
    "system.type=tiny-spere": "unknown system 'tiny-spere'; did you mean 'tiny-sphere'?",
    "system=null": "unknown system 'null'",
    "views.type=posed": "unknown views 'posed'; did you mean 'posed-images'?",
    "views.pat=x": "unknown key 'views.pat'; did you mean 'views.path'?",
    "views.held_out=[9]": "views.held_out: no view 9",
    "views.held_out=[0,1,2,3]": "views.held_out: all 4 views are held out",
    "views.held_out=0": "views.held_out: expected a list",
    "views.scale=0": "views.scale: expected above 0, got 0",
    "views.background=green": "views.background: expected one of",
    "views.mesh=no.obj": "views.mesh: no such file: no.obj",
    "data.path=nothing": "nothing: no such file or folder",
    "data.path=tiny.yaml": "tiny.yaml: expected a folder",
    "checkpoint.every=0": "checkpoint.every: expected 1 or more, got 0",
    "log.imges_every=1": "did you mean 'log.images_every'?",
    "test.elevation_deg=90": "test.elevation_deg: expected -89 to 89",
    "test.lpips_network=resnet": "test.lpips_network: expected one of",
    "export.formats=[gltff]": "export.formats[0]: expected one of glb, obj, ply, stl, 3mf, usdz, got 'gltff'",
    "export.formats=glb": "export.formats: expected a list",
    "export.texture_size=big": "export.texture_size: expected a whole number",
    "export.textur_size=64": "did you mean 'export.texture_size'?",
    "=1": "'=1': expected key=value",
    "seed.x=1": "seed: expected a whole number",
    "runs_dir=tiny.yaml": "runs_dir=tiny.yaml: is no folder: ",
    "runs_dir=/proc/nowhere": "cannot write the run folder /proc/nowhere",
    "runs_dir=/dev/full": "runs_dir=/dev/full: is no folder: /dev/full",
}

CONFIGS = {
    "twice: 1\ntwice: 2": "found duplicate key twice",
    "system: {type: [": "not a readable YAML file",
    "system: !!python/object/apply:os.getcwd []": "not a readable YAML file",
    "\tsystem: 1": "not a readable YAML file",
    "- system": "expected keys and values at the top level",
    "": "system: missing",
    "system: 5": "system: expected keys and values, got 5",
    "system: {steps: 1}": "system.type: missing",
    "system: tiny-sphere\nseed: ${nope}": "Interpolation key 'nope' not found",
    "system: tiny-sphere\nseed: ${unknown:1}": "Unsupported interpolation type unknown",
    "system: tiny-sphere\nseed: ${name}\nname: ${seed}": "Recursive interpolation",
    "system: tiny-sphere\nviews: {type: posed-images}": "views.path: missing; expected text",
    "system: tiny-sphere\nviews: {type: posed-images, path: ''}": "views.path",
    "system: {type: coarse-to-fine}": "system.stages: missing",
    "system: {type: coarse-to-fine, stages: {coarse: {steps: 5}}}": "system.stages.coarse.geometry: missing",
}


def edit_transforms(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(capture: Path) -> None:
        path = capture / "transforms.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return apply


def edit_pose(change: Callable[[list[list[float]]], object]) -> Callable[[Path], None]:
    return edit_transforms(lambda data: change(data["frames"][1]["transform_matrix"]))


def set_at(row: int, column: int, value: object) -> Callable[[list[list[Any]]], object]:
    return lambda matrix: matrix[row].__setitem__(column, value)


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda capture: capture.joinpath(name).write_bytes(data) and None


def picture(mode: str, size: tuple[int, int], color: object) -> Callable[[Path], None]:
    return lambda capture: Image.new(mode, size, color).save(capture / "1.png")  # type: ignore[arg-type]


def truncate(capture: Path) -> None:
    path = capture / "1.png"
    path.write_bytes(path.read_bytes()[:-30])


def drop_alpha(capture: Path) -> None:
    for path in capture.glob("*.png"):
        Image.open(path).convert("RGB").save(path)


DATA_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no transforms": (lambda capture: (capture / "transforms.json").unlink(), "no transforms.json"),
    "empty transforms": (write("transforms.json", b""), "transforms.json"),
    "JSON syntax": (write("transforms.json", b'{"frames": ['), "transforms.json"),
    "JSON list": (write("transforms.json", b"[]"), "transforms.json"),
    "not text": (write("transforms.json", b"\xff\xfe\x00"), "transforms.json"),
    "no frames": (edit_transforms(lambda d: d.pop("frames")), "frames"),
    "empty frames": (edit_transforms(lambda d: d["frames"].clear()), "transforms.json"),
    "no field of view": (edit_transforms(lambda d: d.pop("camera_angle_x")), "camera_angle_x"),
    "field of view is text": (edit_transforms(lambda d: d.update(camera_angle_x="wide")), "camera_angle_x"),
    "field of view of 200 degrees": (edit_transforms(lambda d: d.update(camera_angle_x=3.5)), "camera_angle_x"),
    "no file path": (edit_transforms(lambda d: d["frames"][1].pop("file_path")), "file_path"),
    "file path is a number": (edit_transforms(lambda d: d["frames"][1].update(file_path=3)), "file_path"),
    "no pose": (edit_transforms(lambda d: d["frames"][1].pop("transform_matrix")), "transform_matrix"),
    "pose of 2 rows": (edit_pose(lambda m: m.__delitem__(slice(2, None))), "transform_matrix"),
    "ragged pose": (edit_pose(lambda m: m[1].pop()), "transform_matrix"),
    "pose with NaN": (edit_pose(set_at(0, 3, float("nan"))), "transforms.json: NaN"),
    "pose with text": (edit_pose(set_at(0, 3, "x")), "transform_matrix"),
    "scaled pose": (edit_pose(lambda m: [r.__setitem__(0, r[0] * 3) for r in m]), "transform_matrix"),
    "mirrored pose": (edit_pose(lambda m: [r.__setitem__(0, -r[0]) for r in m[:3]]), "transform_matrix"),
    "frame is text": (edit_transforms(lambda d: d["frames"].__setitem__(1, "1.png")), "frames"),
    "image missing": (lambda capture: (capture / "1.png").unlink(), "1.png"),
    "image empty": (write("1.png", b""), "1.png: the image file is empty"),
    "image corrupt": (write("1.png", b"not a picture"), "1.png: not a readable image"),
    "image truncated": (truncate, "1.png"),
    "image of zero alpha": (picture("RGBA", (16, 16), (9, 9, 9, 0)), "1.png: no foreground"),
    "image of another size": (picture("RGBA", (32, 32), (9, 9, 9, 255)), "1.png: 32x32 pixels"),
    "image of another aspect": (picture("RGBA", (16, 8), (9, 9, 9, 255)), "1.png: 16x8 pixels"),
    "no alpha": (drop_alpha, "has no alpha and no mask"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_bad_command(case: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = COMMANDS[case]
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize("override", OPTIONS)
def test_bad_option(override: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = override.partition("=")[0]
    others = [word for word in (*TRAIN, DATA) if word.partition("=")[0] != key]
    assert OPTIONS[override] in refused([*others, override], capsys)


@pytest.mark.parametrize("text", CONFIGS)
def test_bad_config(text: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(text)
    assert CONFIGS[text] in refused(["--config", "bad.yaml", "--train"], capsys)


@pytest.mark.parametrize("case", DATA_FAULTS)
def test_bad_data(case: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault, message = DATA_FAULTS[case]
    fault(project / "capture")
    assert message in refused([*TRAIN, DATA], capsys)


def test_bad_truth_mesh(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in {"empty.obj": b"", "text.ply": b"hello", "mesh.xyz": b"1 2 3"}.items():
        Path(name).write_bytes(data)
        assert name in refused([*TRAIN, DATA, f"views.mesh={name}"], capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs` of a finished run."""
    from helpers import tiny_system  # noqa: F401  registers "tiny-sphere"

    folder = tmp_path_factory.mktemp("trained")
    make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TRAIN, DATA, "tag=a"]) == 0
    return folder / "runs"


@pytest.fixture
def finished(project: Path, trained: Path) -> Path:
    shutil.copytree(trained, project / "runs")
    return project / "runs" / "tiny" / "a"


RUN_FAULTS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "all checkpoints torn": (
        lambda run: [path.write_bytes(path.read_bytes()[:-9]) for path in run.glob("checkpoints/step*")],
        [],
        "no usable checkpoint",
    ),
    "foreign checkpoint": (
        lambda run: [path.write_bytes(b"PK\x03\x04 pickled") for path in run.glob("checkpoints/step*")],
        [],
        "not a checkpoint of this version",
    ),
    "inputs torn": (
        lambda run: run.joinpath("checkpoints", "inputs.ckpt").write_bytes(b"torn"),
        [],
        "inputs.ckpt: not a checkpoint of this version",
    ),
    "another system": (lambda run: None, ["system.lr=0.5"], "system.lr: the run in"),
    "another seed": (lambda run: None, ["seed=5"], "seed: the run in"),
    "other views": (lambda run: None, ["views.scale=2"], "views.scale: the run in"),
    "no checkpoint": (lambda run: [p.unlink() for p in run.glob("checkpoints/step*")], [], "has no checkpoint yet"),
    "config gone": (lambda run: run.joinpath("config.yaml").unlink(), [], "expected the config.yaml of a run folder"),
    "checkpoints gone": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        [],
        "expected the config.yaml of a run folder",
    ),
    "bad export option": (lambda run: None, ["export.formats=[fbx]"], "export.formats"),
}


@pytest.mark.parametrize("case", RUN_FAULTS)
def test_bad_run(case: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fault, overrides, message = RUN_FAULTS[case]
    fault(finished)
    capsys.readouterr()
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["--config", str(finished / "config.yaml"), "--export", *overrides]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.splitlines()) == 1
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def full_disk(name: str, run: Path) -> None:
    """Link a file that the run appends to to a disk without space."""
    (run / name).unlink()
    (run / name).symlink_to("/dev/full")


def test_a_full_disk_fails_with_one_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full_disk("command.txt", finished)
    capsys.readouterr()
    assert main(["--config", str(finished), "--export"]) == 2
    errors = capsys.readouterr().err
    assert "command.txt: No space left on device" in errors and len(errors.splitlines()) == 1


def test_a_failed_checkpoint_keeps_the_previous_one(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on file sizes simulates a disk that fills up while a checkpoint is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        assert main([*TRAIN[:-1], DATA, "tag=b", "system.steps=4", "system.ballast=1000000", "checkpoint.every=2"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert "step-00000002-first.ckpt: File too large" in errors and len(errors.splitlines()) == 1
    assert [path.name for path in (finished.parent / "b" / "checkpoints").iterdir()] == ["inputs.ckpt"]


def odd_images(capture: Path) -> None:
    """Rewrite the images as palette and 16-bit files, one with an EXIF orientation."""
    first = Image.open(capture / "0.png")
    first.quantize(64).save(capture / "0.png")  # palette with transparency
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees; its pose describes the stored pixels
    Image.open(capture / "1.png").save(capture / "1.png", exif=exif)
    grey = np.asarray(Image.open(capture / "2.png").convert("L"), dtype=np.uint16) * 257
    alpha = Image.open(capture / "2.png").getchannel("A")
    Image.fromarray(grey).save(capture / "2.png")
    alpha.save(capture / "2_mask.png")
    edit_transforms(lambda data: data["frames"][2].update(mask_path="2_mask.png"))(capture)


def test_odd_but_valid_images_are_taken(project: Path) -> None:
    odd_images(project / "capture")
    assert main([*TRAIN, DATA]) == 0


def test_there_are_enough_cases() -> None:
    assert sum(map(len, (COMMANDS, OPTIONS, CONFIGS, DATA_FAULTS, RUN_FAULTS))) >= 60
