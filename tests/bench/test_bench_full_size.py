"""The benchmark of networks at their full size: its files, and its parts on a network in miniature."""

import functools
import time
from pathlib import Path

import pytest
import torch
from helpers.tiny_sv3d import write_tiny_sv3d
from safetensors.torch import load_file

from bench import full_size, full_size_files
from bench.full_size import Method, main
from bench.runs import append_rows, read_rows
from liftstudio.cli import command_line
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.memory import memory_high_water_gb
from liftstudio.core.registry import find
from liftstudio.core.weights import open_weights
from liftstudio.methods.sv3d.checkpoint import open_parts
from liftstudio.priors.opening import open_prior

CPU = torch.device("cpu")


def write_miniature(folder: Path) -> dict[str, str]:
    return {"weights": str(write_tiny_sv3d(folder / "sv3d_p.safetensors"))}


def test_parts_with_rows_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, rows = tmp_path / "sv3d_u.safetensors", tmp_path / "rows.jsonl"
    weights.touch()
    size = {"views": 21, "pixels": 576, "precision": "bfloat16"}
    known = [
        {"method": "sv3d-u", "part": "write", "seconds": 30.0, "file_gb": 4.7, "options": {"weights": str(weights)}},
        {"method": "sv3d-u", "part": "estimate", "seconds": 123.4, "memory_gb": 6.5, **size},
    ]
    append_rows(rows, known)
    assert main(["sv3d-u", "estimate", "--rows", str(rows)]) == command_line.DONE
    said = capsys.readouterr()
    assert read_rows(rows) == known and "estimate: has a row" in said.err
    assert "21 x 576^2" in said.out and "123.4" in said.out


@pytest.mark.parametrize("part", full_size.PARTS)
def test_every_part_works(part: str, tmp_path: Path) -> None:
    row = full_size.measure(part, Method(write_miniature, "sv3d", 5), write_miniature(tmp_path), 0)
    assert row["seconds"] >= 0 and row["precision"] == "float32"


def test_random_weights_are_written_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    full_size_files.write_safetensors(path, {"a.weight": [200, 100, 1], "norm.weight": [3], "a.bias": [5]})
    state = load_file(path)
    assert {weight.dtype for weight in state.values()} == {torch.float16}
    assert state["a.weight"].float().std() == pytest.approx(0.1, rel=0.03)  # 20000 numbers
    assert state["norm.weight"].tolist() == [1.0] * 3 and not state["a.bias"].any()


@functools.cache
def sv3d_shapes() -> dict[str, list[int]]:
    return full_size_files.sv3d_shapes("p")


def test_a_faulty_file_of_full_size_is_refused_at_once(tmp_path: Path) -> None:
    """By its list of names and shapes: no weight is read, no memory is taken."""
    path = tmp_path / "sv3d_p.safetensors"
    head, length = full_size_files.safetensors_header(sv3d_shapes())
    path.write_bytes(head)
    before, start = memory_high_water_gb()["memory_gb"], time.perf_counter()
    for size, message in (
        (len(head), "if its download was interrupted, repeat it"),
        (len(head) + length - 1, "if its download was interrupted, repeat it"),
    ):
        with path.open("r+b") as file:
            file.truncate(size)  # a sparse file: it takes no space
        for kind in ("auto", "sv3d"):
            with pytest.raises(InputError, match=message):
                open_prior(ComponentSpec("prior", kind, find(kind, "prior").Config(str(path))), CPU)
    with path.open("r+b") as file:
        file.truncate(len(head) + length)
    assert len(open_parts(open_weights(str(path)))) == 3
    mislabelled = tmp_path / "syncdreamer-pretrain.safetensors"
    path.rename(mislabelled)
    with pytest.raises(InputError, match="not SyncDreamer's weights in their official layout"):
        open_prior(ComponentSpec("prior", "syncdreamer", find("syncdreamer", "prior").Config(str(mislabelled))), CPU)
    assert memory_high_water_gb()["memory_gb"] - before < 0.7  # GB of 4.7: what is imported on the way
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing"),
        (["zero123", "nothing"], "nothing: no such part; expected open"),
        (["zero123", "--views", "5"], "--views: expected 0 to 4, got 5"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == command_line.BAD_INPUT
    assert message in capsys.readouterr().err
