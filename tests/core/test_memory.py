"""Advice when memory runs out names the option whose value takes most of it."""

import re
from pathlib import Path

import pytest
import torch

from liftstudio.core.assets import packaged
from liftstudio.core.extensions import load_components
from liftstudio.core.memory import Chunks, OutOfMemoryError, memory_advice
from liftstudio.run.config import RunConfig, load_run_config

COARSE, FINE = "system.stages.coarse", "system.stages.fine"
VIEWS, GRID = f"{COARSE}.guidance.views", f"{COARSE}.geometry.grid"
# blocks of options, overrides -> the advice
CAUSES = {
    "resolution": ([COARSE], [f"{VIEWS}.resolution=[1024]"], f"{VIEWS}.resolution=[512]"),
    "resolutions": (
        [COARSE],
        [f"{VIEWS}.resolution=[64,2048]", f"{VIEWS}.resolution_milestones=[9]"],
        f"{VIEWS}.resolution=[64,1024]",
    ),
    "full resolution": ([COARSE], [f"{VIEWS}.resolution=[0]"], f"{VIEWS}.resolution=[250]"),
    "views": ([COARSE], [f"{VIEWS}.views_per_step=200"], f"{VIEWS}.views_per_step=100"),
    "samples": ([COARSE], [f"{COARSE}.renderer.samples_across=8000"], f"{COARSE}.renderer.samples_across=4000"),
    "occupancy": ([COARSE], [f"{COARSE}.renderer.grid_resolution=512"], f"{COARSE}.renderer.grid_resolution=256"),
    "hash table": ([COARSE], [f"{GRID}.log2_table_size=24"], f"{GRID}.log2_table_size=23"),
    "grid": ([FINE], [f"{FINE}.geometry.resolution=256"], f"{FINE}.geometry.resolution=128"),
    "render": ([FINE], [f"{FINE}.guidance.views.resolution=[4096]"], f"{FINE}.guidance.views.resolution=[2048]"),
    "turntable": (["test", f"{FINE}.renderer"], ["test.size=8192"], "test.size=4096"),
    "texture": (["export", f"{FINE}.geometry"], ["export.texture_size=16384"], "export.texture_size=8192"),
    "export": (
        ["export", f"{COARSE}.geometry"],
        [f"{COARSE}.geometry.surface_resolution=256"],
        f"{COARSE}.geometry.surface_resolution=128",
    ),
    "pictures": (["views"], ["views.max_size=0"], "views.max_size=2048"),
}


def config_with(*overrides: str) -> RunConfig:
    load_components()
    return load_run_config(packaged("configs") / "reconstruct-views.yaml", list(overrides))


@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_is_named_first_with_a_lower_value(cause: str) -> None:
    keys, overrides, advice = CAUSES[cause]
    with pytest.raises(OutOfMemoryError) as error, memory_advice(config_with(*overrides), *keys, side=500):
        raise MemoryError
    assert str(error.value).startswith(f"out of memory in {keys[0]}; try {advice} (now ")
    config_with(*overrides, advice)  # is accepted


def test_with_usual_values_a_few_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemoryError) as error, memory_advice(config_with(), COARSE, side=500):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    advised = re.findall(r"([\w.]+)=", str(error.value))
    assert 0 < len(advised) <= 4 and not any("base_resolution" in key or "surface" in key for key in advised)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("std::bad_alloc")], ids=repr
)
def test_forms_of_failed_allocations(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match=r"^out of memory in views; try views.max_size"):  # noqa: SIM117
        with memory_advice(config_with(), "views"):
            raise error


def test_other_errors_pass() -> None:
    own = OutOfMemoryError("own advice")
    with pytest.raises(OutOfMemoryError, match=r"^own advice$"), memory_advice(config_with(), COARSE):
        raise own
    with pytest.raises(RuntimeError, match=r"^other$"), memory_advice(config_with(), COARSE):
        raise RuntimeError("other")


def test_chunks_halve_until_they_fit(caplog: pytest.LogCaptureFixture) -> None:
    chunks, sizes = Chunks(4, "encoder_chunk"), list[int]()

    def double(frames: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        if len(frames) > 2:
            raise RuntimeError("CUDA out of memory")
        sizes.append(len(frames))
        return frames + more

    frames = torch.arange(5.0)
    assert torch.equal(torch.cat(chunks.map(double, frames, frames)), 2 * frames)
    assert sizes == [2, 2, 1] and chunks.size == 2
    assert [record.getMessage() for record in caplog.records] == ["out of memory; going on with encoder_chunk=2"]


def test_a_single_frame_that_does_not_fit_is_an_error() -> None:
    def fail(frame: torch.Tensor) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        Chunks(2, "chunk").map(fail, torch.zeros(2))
