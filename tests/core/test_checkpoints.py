"""Checkpoint files are complete, verified and safe, and two are kept; comparison of configs."""

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.core.checkpoints import (
    Checkpoint,
    Checkpoints,
    check_same_config,
    random_states,
    read_verified,
    seed_everything,
    set_generator_state,
    set_random_states,
    write_verified,
)
from liftstudio.core.errors import InputError


def checkpoint(step: int, **system: Any) -> Checkpoint:
    return Checkpoint(
        stage="coarse",
        step=step,
        total_step=step,
        system={"weights": torch.arange(100.0), **system},
        config={"seed": 0},
        elapsed={"coarse": 1.5},
        random=random_states(),
        versions={"torch": "x"},
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def test_round_trip_keeps_everything(checkpoints: Checkpoints) -> None:
    state = {"list": [1, 2.5, None, True, "a"], "nested": {0: torch.ones(2, dtype=torch.bfloat16)}, "tuple": (1, (2,))}
    checkpoints.save(checkpoint(7, **state))
    loaded, refused = checkpoints.newest()
    assert loaded is not None and not refused
    assert (loaded.stage, loaded.step, loaded.elapsed, loaded.config) == ("coarse", 7, {"coarse": 1.5}, {"seed": 0})
    assert torch.equal(loaded.system["weights"], torch.arange(100.0))
    assert loaded.system["list"] == state["list"] and loaded.system["tuple"] == state["tuple"]
    assert loaded.system["nested"][0].dtype == torch.bfloat16


def test_a_generator_of_another_kind_of_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA generator's state has 16 bytes; a CPU's goes on from its seed."""
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    generator, other = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    set_generator_state(generator, torch.zeros(16, dtype=torch.uint8))
    assert "another kind of device" in caplog.text
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())
    set_generator_state(generator, other.get_state())
    assert torch.equal(generator.get_state(), other.get_state())


def test_the_last_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (9, 10, 11, 100):
        checkpoints.save(checkpoint(step))
    assert [path.name for path in checkpoints.paths()] == ["step-00000100-coarse.ckpt", "step-00000011-coarse.ckpt"]


def test_a_missing_checkpoint_is_none(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() == (None, [])


def damage_cut(data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def damage_flip(data: bytes) -> bytes:
    place = random.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << random.randrange(8))]) + data[place + 1 :]


def damage_append(data: bytes) -> bytes:
    return data + b"\0"


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_append])
@pytest.mark.parametrize("seed", [fresh_seed(__name__) for _ in range(20)])
def test_a_damaged_file_is_refused_and_the_one_before_is_used(checkpoints: Checkpoints, damage: Any, seed: int) -> None:
    checkpoints.save(checkpoint(1))
    newest = checkpoints.save(checkpoint(2))
    random.seed(seed)
    newest.write_bytes(damage(newest.read_bytes()))
    loaded, refused = checkpoints.newest()
    assert loaded is not None and loaded.step == 1
    assert len(refused) == 1 and str(newest) in refused[0]


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[]\nx", b"\xff\xfe\n", b"PK\x03\x04" * 100, b'{"magic": 1}\n'])
def test_foreign_files_are_refused(checkpoints: Checkpoints, data: bytes) -> None:
    checkpoints.folder.mkdir()
    (checkpoints.folder / "step-00000001-x.ckpt").write_bytes(data)
    with pytest.raises(InputError, match=r"no usable checkpoint: .*step-00000001-x.ckpt"):
        checkpoints.newest()


def test_another_versions_checkpoint_is_refused(checkpoints: Checkpoints) -> None:
    write_verified(checkpoints.folder / "step-00000001-x.ckpt", {"other": 1})
    with pytest.raises(InputError, match="not a checkpoint of this version"):
        checkpoints.newest()


def test_no_code_in_a_file_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    write_verified(tmp_path / "hostile.ckpt", {"x": Hostile()})
    with pytest.raises(InputError, match="not safe to load"):
        read_verified(tmp_path / "hostile.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [object(), np.float64(1), np.zeros(2), {1, 2}])
def test_state_that_cannot_be_loaded_safely_is_refused_at_once(checkpoints: Checkpoints, value: object) -> None:
    with pytest.raises(TypeError, match=r"state\.bad\.0: a checkpoint cannot contain"):
        checkpoints.save(checkpoint(1, bad=[value]))
    assert not checkpoints.paths()


def test_nan_is_not_saved_over_a_good_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(checkpoint(1))
    with pytest.raises(InputError, match=r"state\.bad contains NaN"):
        checkpoints.save(checkpoint(2, bad=torch.tensor([1.0, float("nan")])))
    assert len(checkpoints.paths()) == 1


def test_a_failed_write_leaves_nothing(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(checkpoint(1))
    before = sorted(checkpoints.folder.iterdir())
    path = checkpoints.folder / "step-00000002-coarse.ckpt"
    path.mkdir()  # the new file cannot take its place
    with pytest.raises(OSError):
        checkpoints.save(checkpoint(2))
    path.rmdir()
    assert sorted(checkpoints.folder.iterdir()) == before


def test_random_states_come_back() -> None:
    seed_everything(3)
    states = random_states()
    first = random.random(), np.random.rand(), torch.rand(1)
    set_random_states(states)
    assert (random.random(), np.random.rand(), torch.rand(1)) == first


def test_the_first_different_option_is_named(tmp_path: Path) -> None:
    saved = {"seed": 0, "system": {"type": "a", "stages": {"coarse": {"steps": 5, "sizes": [1, 2]}}}}
    check_same_config(saved, saved, tmp_path)
    now = {"seed": 0, "system": {"type": "a", "stages": {"coarse": {"steps": 6, "sizes": [1, 3]}}}}
    with pytest.raises(InputError, match=r"^system\.stages\.coarse\.steps: .* started with 5, not 6"):
        check_same_config(saved, now, tmp_path)
    more = {**saved, "extra": {"steps": 1}}
    with pytest.raises(InputError, match=r"^extra\.steps: .* started with absent, not 1"):
        check_same_config(saved, more, tmp_path)
