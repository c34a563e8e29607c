"""Which rows are reused, and which are measured again."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from ball_captures import PRIOR, measure, setting_of, write_capture
from helpers.tiny_prior import TinyBall

from bench import captures, runs, single_image_tasks
from bench.single_image_tasks import Setting, Task
from liftstudio.core import assets
from liftstudio.core.errors import InputError
from liftstudio.data.images import load_image
from liftstudio.metrics.novel_views import Judges, novel_views


def key_of(capture: str, *overrides: str, config: str = "sv3d-masked-sds", kind: str = "views") -> dict:
    """Return the key of a task's rows, after a round trip through their file."""
    return json.loads(json.dumps(Task(kind, Setting(config, overrides), Path(capture)).key(captures.digest_of)))


@pytest.mark.parametrize("kind", ["views", "inflate"])
def test_another_capture_of_the_same_name_has_other_rows(kind: str) -> None:
    """The same capture elsewhere has the same key; other images, another pose or another mesh do not."""
    plain = key_of("objects/red_ball", kind=kind)
    capture = write_capture(Path("others/red_ball"), mesh=True)
    assert key_of("others/red_ball", kind=kind) == plain and plain["object"] == "red_ball"
    picture = capture / "images" / "003.png"
    as_it_was = picture.read_bytes()
    picture.write_bytes((capture / "images" / "002.png").read_bytes())
    assert key_of("others/red_ball", kind=kind) != plain
    picture.write_bytes(as_it_was)
    trimesh.creation.icosphere(3, 0.4).export(capture / "mesh.ply")
    assert key_of("others/red_ball", kind=kind) != plain
    (capture / "mesh.ply").write_bytes(Path("objects/red_ball/mesh.ply").read_bytes())
    assert key_of("others/red_ball", kind=kind) == plain
    table = capture / "transforms.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), "source_rotation_deg": 90.0}))
    assert key_of("others/red_ball", kind=kind) != plain
    mean = Task("mean", Setting(), Path("objects/red_ball"), (Path("objects/blue_ball1"),))
    other_mean = Task("mean", Setting(), Path("objects/red_ball"), (capture,))
    assert mean.key(captures.digest_of)["digest"] != other_mean.key(captures.digest_of)["digest"]


def test_an_edited_config_has_other_rows() -> None:
    """Baselines depend only on a config's measurement options."""
    text = (assets.packaged("configs") / "sv3d-masked-sds.yaml").read_text()
    kinds = ("views", "mesh", "inflate")

    def keys(*overrides: str) -> list[dict]:
        return [key_of("objects/red_ball", *overrides, config="own.yaml", kind=kind) for kind in kinds]

    Path("own.yaml").write_text(text)
    plain = keys()
    Path("own.yaml").write_text(text + "# a remark\n")
    assert keys() == plain
    assert [key == old for key, old in zip(keys("test.lpips_network=vgg16"), plain, strict=True)] == [False] * 3
    assert "frames: 21" in text
    Path("own.yaml").write_text(text.replace("frames: 21", "frames: 15"))
    assert [key == old for key, old in zip(keys(), plain, strict=True)] == [False, False, True]


def test_a_kill_between_two_tasks_leaves_complete_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("kept/rows.jsonl")
    runs.append_rows(path, [{"object": "a"}])

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        runs.append_rows(path, [{"object": "b", "pixels": 64}, {"object": "b", "pixels": 256}])
    assert runs.read_rows(path) == [{"object": "a"}]
    path.write_text('{"object": "a"}')  # without a final newline, as some editors save
    runs.append_rows(path, [{"object": "b"}])
    assert runs.read_rows(path) == [{"object": "a"}, {"object": "b"}]
    path.write_text('{"object": "a"}\n{"obj')
    with pytest.raises(InputError, match=r"rows.jsonl: the file is not in JSON Lines format"):
        runs.read_rows(path)


def test_an_interrupted_benchmark_continues() -> None:
    rows = measure("--views-only", *PRIOR)
    first = [row for row in rows if row["object"] == "blue_ball1"]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    asked = len(TinyBall.prompts)
    rows = measure("--views-only", *PRIOR)
    assert rows[:4] == first and len(rows) == 8
    assert len(TinyBall.prompts) == asked + 2  # one per kind of condition


def test_configs_and_weights_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per setting, not per task; plus the config of each image."""
    calls: dict[str, list] = {"resolve": [], "load_run_config": [], "load_judges": []}
    for name, made in calls.items():
        plain = getattr(single_image_tasks, name)

        def counted(*arguments: Any, plain: Callable[..., Any] = plain, made: list = made) -> Any:
            made.append(arguments)
            return plain(*arguments)

        monkeypatch.setattr(single_image_tasks, name, counted)
    measure("--views-only", "--baselines", "repeated", *PRIOR)
    assert {name: len(made) for name, made in calls.items()} == {
        "resolve": 1,
        "load_run_config": 3,  # without an image, and with each of the two
        "load_judges": 1,
    }


def test_settings_can_be_sent_to_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Config blocks may need modules that a new process has not loaded yet."""
    task = Task("mesh", setting_of(PRIOR), Path("objects/red_ball"))
    task.key(captures.digest_of)
    given: list[tuple] = []
    monkeypatch.setattr(single_image_tasks, "in_own_process", lambda *arguments: given.append(arguments))
    task.measure(Judges(), Path("work"), Path("strips"))
    ((_, sent, *_),) = given
    assert sent == task and set(vars(sent.setting)) == {field.name for field in fields(Setting)}


def test_further_input_views_are_named_by_their_sides(tmp_path: Path) -> None:
    capture = Path("objects/red_ball")
    subject = captures.read_subject(capture, sides=("240",))
    assert subject.views.input_views == (0, 4) and novel_views(subject.views).tolist() == [1, 2, 3, 5]
    front, side = subject.save_pictures(tmp_path)
    config = Setting(sides=("240",)).of(subject, front, side)
    assert list(config.views.options.images) == ["front", "240"]
    _, alpha = load_image(config.views.options.images["240"])
    assert torch.allclose(alpha, subject.views.masks[4], atol=0.01)
    one, two = (Task("mesh", Setting(sides=sides), capture).key(captures.digest_of) for sides in ((), ("240",)))
    assert one["sides"] == [] and two["sides"] == ["240"] and Setting(sides=("240",)).name.endswith("+ 240")
    with pytest.raises(InputError, match="no view from the back at the input view's elevation, within 10 degrees"):
        captures.read_subject(capture, sides=("back",))


def test_overrides_cannot_change_what_the_benchmark_sets() -> None:
    subject = captures.read_subject(Path("objects/red_ball"))
    config = Setting(overrides=("export={formats: [obj], shaded: false, texture_size: 128}",)).of(
        subject, "image=picture.png", "export.formats=[glb]", "export.shaded=true"
    )
    assert config.export.formats == ["glb"] and config.export.shaded and config.export.texture_size == 128
