"""Opening weight files, and the prior that recognises them."""

import io
import os
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Annotated

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_prior import TinyBall, write_weights
from safetensors.torch import save, save_file
from torch import nn

from liftstudio.cli.catalog import catalog
from liftstudio.core import weights as weights_module
from liftstudio.core.config import ComponentSpec, parse
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.weights import Weights, load_module, open_weights
from liftstudio.priors import opening
from liftstudio.priors.opening import open_prior, resolve
from liftstudio.priors.precision import network_dtype

CPU = torch.device("cpu")
SEED = fresh_seed(__name__)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return {"a.weight": torch.randn(3, 4, generator=generator), "a.bias": torch.randn(3, generator=generator)}


def test_files_of_both_kinds(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "x.safetensors", metadata={"note": "yes"})
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.ckpt")
    torch.save(state, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.ckpt", "x.pt"):
        weights = open_weights(str(tmp_path / name))
        assert weights.path == tmp_path / name
        assert weights.shapes == {"a.weight": (3, 4), "a.bias": (3,)} and "a.bias" in weights
        assert all(torch.equal(weights[key], tensor) for key, tensor in state.items())
    assert Weights(tmp_path / "x.safetensors").metadata == {"note": "yes"}


def test_a_folder_stands_for_the_one_file_in_it(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="no weight file there"):
        open_weights(str(tmp_path))
    save_file(state, tmp_path / "b.safetensors")
    (tmp_path / "README.md").write_text("about")
    assert open_weights(str(tmp_path)).path.name == "b.safetensors"
    save_file(state, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"several weight files there; name one, for example .*/b\.safetensors"):
        open_weights(str(tmp_path))


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch was-here",)


def test_invalid_weight_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"a": Malicious()}, tmp_path / "code.pt")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    for name, message in (
        ("text.safetensors", "not a readable weight file"),
        ("code.pt", r"code\.pt: contains Python objects other than tensors \(\w+\.system\); they are not loaded"),
        ("empty.pt", "expected a dict of tensors"),
    ):
        with pytest.raises(InputError, match=message):
            open_weights(name)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_files_that_are_no_weights_are_named(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = io.BytesIO()
    torch.save(state, archive)
    other = save(state) if suffix == ".ckpt" else archive.getvalue()
    wrong = rf"rename it to w\{'.safetensors' if suffix == '.ckpt' else '.ckpt'}"
    whole = archive.getvalue() if suffix == ".ckpt" else save(state)
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer of 43 bytes.*git lfs pull"),
        (b"<!doctype html><html>", "an HTML page, not the file itself"),
        (b"", "an empty file"),
        (other, wrong),
        (whole[:-30], "if its download was interrupted, repeat it"),
    ):
        Path(f"w{suffix}").write_bytes(content)
        with pytest.raises(InputError, match=rf"w\{suffix}: not a readable weight file \(.*{message}"):
            open_weights(f"w{suffix}")


def test_checkpoints_of_old_torch_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    weights = open_weights("old.pth")
    assert all(torch.equal(weights[key], value) for key, value in state.items())


def test_a_checkpoint_with_other_objects_is_read_once_saved_as_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "hyper_parameters": Namespace(lr=1)}, "x.ckpt")
    with pytest.raises(InputError, match=r"\(argparse\.Namespace\); they are not loaded") as refusal:
        open_weights("x.ckpt")
    (script,) = re.findall('python -c "(.*)"', str(refusal.value))
    exec(script, {})
    assert open_weights("weights.ckpt").shapes == {"a.weight": (3, 4), "a.bias": (3,)}


@pytest.mark.parametrize(
    "text", ["x.safetensors", "here/x.safetensors", "asset://no/such", "/no/such/file", "here/x/y"]
)
def test_a_missing_file_says_where_it_is_published(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{text}: no such file or folder; published at nowhere$"):
        open_weights(text, "published at nowhere")


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> None:
    """Without network access, earlier downloads are found, and others fail with one line."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--owner--name"
    for folder in ("refs", "snapshots/0123abcd"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    save_file(state, repository / "snapshots" / "0123abcd" / "x.safetensors")
    assert open_weights("owner/name/x.safetensors").shapes["a.bias"] == (3,)
    for text in ("owner/name/y.safetensors", "owner/other"):
        with pytest.raises(InputError, match=rf"^{text}: no such file, and it cannot be downloaded from the Hugging"):
            open_weights(text)


def test_load_module_casts_and_freezes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "x.safetensors")
    weights = open_weights(str(tmp_path / "x.safetensors"))
    with torch.device("meta"):
        module = nn.Linear(3, 4)
    keys = {"weight": ("a.weight", torch.t), "bias": "a.bias"}
    with pytest.raises(InputError, match=r"'a\.bias' has shape \[3\]; 'bias' of the network has \[4\]"):
        load_module(module, weights, keys, torch.bfloat16, CPU)
    with torch.device("meta"):
        module = nn.Linear(3, 4, bias=False)
    load_module(module, weights, keys, torch.bfloat16, CPU)
    assert torch.equal(module.weight, state["a.weight"].T.bfloat16())
    assert not module.weight.requires_grad and not module.training
    with torch.device("meta"):
        module = nn.Linear(4, 3)
    with pytest.raises(InputError, match="the weight 'weight' is missing"):
        load_module(module, weights, {"bias": "a.bias"}, torch.float32, CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="memory of mapped files is read from /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_pages_that_were_read_are_given_back(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network larger than the memory that is left besides it can be loaded: its file takes none."""
    monkeypatch.setattr(weights_module, "_MAPPED", 2**20)
    state = {str(number): torch.full((2**18,), float(number)) for number in range(32)}
    path = tmp_path / f"large{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    weights, before = Weights(path), _mapped_bytes()
    assert all(weights[key][-1] == state[key][-1] for key in state)
    assert _mapped_bytes() - before < 2**23, "of 32 MB"


def _mapped_bytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile:"))
    return 1024 * int(line.split()[1])


def test_the_precision_of_a_published_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision on CUDA; on a CPU only if it is large, and if that is fast there; needs no GPU."""
    with torch.device("meta"):
        small, large = nn.Linear(3, 4), nn.Linear(10_000, 10_000)
    cuda = torch.device("cuda")
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        half = torch.bfloat16 if fast else torch.float32
        assert (network_dtype("auto", CPU, small), network_dtype("auto", CPU, large)) == (torch.float32, half)
    assert network_dtype("auto", cuda, small) == torch.float16
    assert network_dtype("float32", cuda, large) == network_dtype("float32", CPU, large) == torch.float32


def test_foreign_weights_belong_to_no_prior(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "x.safetensors")
    block = parse(
        {"prior": {"type": "auto", "weights": str(tmp_path / "x.safetensors")}},
        dict[str, Annotated[ComponentSpec, "prior"]],
    )
    with pytest.raises(InputError, match=r"x\.safetensors: not weights of a known prior; known: .*sv3d"):
        open_prior(block["prior"], CPU)


def test_a_recognized_prior_is_resolved_by_opening_its_weights_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()

    def counted(text: str, published: str) -> Weights:
        opened.append(text)
        return open_weights(text, published)

    monkeypatch.setattr(opening, "open_weights", counted)
    path = str(write_weights(tmp_path / "ball.safetensors"))
    block = ComponentSpec("prior", "auto", find("auto", "prior").Config(path, chunk=3))
    prior = resolve(block)
    assert prior.block == ComponentSpec("prior", "tiny-ball", TinyBall.Config(path, chunk=3)) and prior.cls is TinyBall
    prior.check_count(7)
    assert prior.fingerprint()["names"] == ["ball.safetensors", ""] and opened == [path]
    assert prior.load(CPU) is open_prior(block, CPU)


def test_a_named_prior_is_resolved_without_its_weights() -> None:
    block = ComponentSpec("prior", "sv3d", find("sv3d", "prior").Config("no.safetensors"))
    prior = resolve(block)
    assert prior.block is block
    with pytest.raises(InputError, match=r"^no\.safetensors: no such file or folder; .*stabilityai/sv3d"):
        prior.fingerprint()


PUBLISHERS = ("stabilityai/sv3d", "liuyuan-pal/SyncDreamer", "Peng-Wang/ImageDream")


@pytest.mark.parametrize(
    ("name", "publishers"),
    [
        ("missing.safetensors", PUBLISHERS),
        ("ckpt", PUBLISHERS),  # a part of a name is not one
        ("", PUBLISHERS),
        ("here/sv3d_p.safetensors", PUBLISHERS[:1]),
        ("syncdreamer-pretrain.ckpt", PUBLISHERS[1:2]),
        ("/no/such/sd-v2.1-base-4view.pt", PUBLISHERS[2:]),
    ],
)
def test_a_missing_file_of_an_unknown_kind_names_its_source(
    name: str, publishers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sources, unless some of them have a file of that name."""
    monkeypatch.chdir(tmp_path)
    options = find("auto", "prior").Config(weights=name)
    with pytest.raises(InputError, match=r"(no such file or folder|no weight file there).*; ") as error:
        open_prior(ComponentSpec("prior", "auto", options), CPU)
    assert [publisher for publisher in PUBLISHERS if publisher in str(error.value)] == list(publishers)


def test_the_listing_has_the_priors() -> None:
    listing = catalog("prior")
    assert "sv3d  Stability AI's SV3D" in listing and "auto  The prior that recognises the weight file" in listing
    assert "guide_in_one_batch: true or false = false  # both guidance branches in one batch" in listing
