"""Folders to run in as fixtures: empty ones, the tiny ball's, the tiny project."""

# First, because it sets how OpenMP's threads wait, before torch starts them: training steps are ten times slower else.
import liftstudio  # isort: skip  # noqa: F401

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_project import make_project

from liftstudio.core import registry

registry.load_methods()  # every test knows their components by name


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Random seeds are not part of a test's name, which is the same in all processes that share the tests."""
    return argname if argname == "seed" else None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Global random numbers that differ from test to test, and in `make test-random` from run to run."""
    seed = fresh_seed()
    print(f"seed of the global random numbers: {seed}")  # noqa: T201  shown when a test fails
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def few_surface_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rough figures of meshes: nearest points of surfaces that lie far in one another take long to find."""
    monkeypatch.setattr("liftstudio.metrics.meshes.SURFACE_SAMPLES", 5000)


@pytest.fixture
def ball_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with the picture and the weights of the tiny ball's prior; what is logged reaches `caplog`."""
    from helpers.tiny_prior import TinyBall, write_ball, write_weights

    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    write_ball(here / "ball.png")
    write_weights(here / "ball.safetensors")
    TinyBall.prompts.clear()
    return here


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder with `capture/` and `tiny.yaml`, for `cli.main` in this process."""
    from helpers import tiny_system  # noqa: F401  registers "tiny-sphere"

    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    failures = dict(registry.extension_failures)
    yield tmp_path
    registry.extension_failures.clear()
    registry.extension_failures.update(failures)


@pytest.fixture
def project_with_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for processes of their own."""
    make_project(tmp_path, extension=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
