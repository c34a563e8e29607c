"""Fixtures for folders to run in: an empty one, the tiny ball's, the tiny project."""

# First, because it sets how OpenMP's threads wait before torch starts them; otherwise training is ten times slower.
import liftstudio  # isort: skip  # noqa: F401

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers.browser import browser, chromium  # noqa: F401  fixtures
from helpers.devices import has_device
from helpers.seeds import fresh_seed
from helpers.tiny_project import make_project

from liftstudio.core import registry

if TYPE_CHECKING:
    from liftstudio.studio.queue import Queue

registry.load_methods()  # every test knows their components by name


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Keep random seeds out of test names, which must be the same in all worker processes."""
    return argname if argname == "seed" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need CUDA where there is none, without a line for each."""
    if not has_device():
        left_out = [item for item in items if item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed the global generators differently for each test and, in `make test-random`, for each run."""
    seed = fresh_seed()
    print(f"seed of the global random numbers: {seed}")  # noqa: T201  shown when a test fails
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def few_surface_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rough figures of meshes: nearest points of surfaces that lie far in one another take long to find."""
    monkeypatch.setattr("liftstudio.metrics.meshes.SURFACE_SAMPLES", 5000)


@pytest.fixture
def few_visible_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for chamfer distances: a quarter of the protocol's points."""
    monkeypatch.setattr("liftstudio.metrics.visible_points._VOXEL", 0.02)


@pytest.fixture
def small_covering_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Renders of a stage's result from all sides, from which the next stage starts, as coarse as the tests' grids."""
    monkeypatch.setattr("liftstudio.systems.coarse_to_fine.COVERING_PIXELS", 64)


@pytest.fixture
def coarse_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the grids on which those renders are fused."""
    for name, value in {"RESOLUTION": 32, "FINE_RESOLUTION": 64, "FINE_CELLS": 2**15}.items():
        monkeypatch.setattr(f"liftstudio.geometry.depth_fusion.{name}", value)


@pytest.fixture
def ball_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with the image and the weights of the tiny ball's prior; log messages reach `caplog`."""
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
    """The same for runs in separate processes."""
    make_project(tmp_path, extension=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ball_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with `ball.yaml`: the tiny ball's prior generates views for the tiny system."""
    from helpers.tiny_prior import PROJECT, TinyBall, write_ball, write_weights

    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(project / "cache"))
    (project / "ball.yaml").write_text(PROJECT)
    write_ball(project / "photo.png")
    write_weights(project / "ball.safetensors")
    TinyBall.prompts.clear()
    return project


@pytest.fixture
def queue(ball_project: Path) -> Iterator["Queue"]:
    """A queue of jobs there; those that wait for `helpers.queues.let_go` go on in the end."""
    from helpers.queues import RUNS, let_go

    from liftstudio.studio.queue import Queue

    opened = Queue(RUNS, "cpu", preview_every_s=0.0)
    yield opened
    let_go()
    opened.close()
