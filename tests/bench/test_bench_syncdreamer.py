"""The benchmark of sixteen synchronised views, checked on known cases."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import TOKENS, write_tokenizer
from helpers.tiny_prior import TinyBall, ball
from helpers.tiny_prior import write_weights as write_ball_weights
from helpers.tiny_syncdreamer import write_bright_weights
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from bench import syncdreamer
from bench.syncdreamer import Judge, Scene
from liftstudio.cli import command_line
from liftstudio.core.config import ComponentSpec
from liftstudio.data.cameras import Cameras
from liftstudio.metrics.diversity import cd_score, cd_terms
from liftstudio.priors.base import Prior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior

SEED = fresh_seed(__name__, bits=24)
NUMBER = SEED % 50  # of the toy
CPU = torch.device("cpu")
SIZE = 32  # pixels across the small CLIP's images


class BallBefore(TinyBall):
    """The tiny ball's prior for any cameras, without masks."""

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        pass


def source_of(instances: int, **options: Any) -> Any:
    return syncdreamer.make_source(instances, options, CPU)


def ball_scene(folder: Path) -> tuple[Prior, Scene]:
    prior = BallBefore(
        BallBefore.Config(str(write_ball_weights(folder / "ball.safetensors")), knows_masks=False), device=CPU
    )
    scene = syncdreamer.make_scene(NUMBER, source_of(1), prior)
    return prior, replace(scene, truth=ball(scene.cameras))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small random CLIP of letters with cosines above 0, below which the CD score has no variance."""
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("clip") / "clip"
    write_tokenizer(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = len(json.loads((folder / "vocab.json").read_text()))
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**tower, **ends, "vocab_size": words, "max_position_embeddings": 2 * TOKENS}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("guidance", ["cfg", "harmonyview"])
def test_the_official_network_is_measured(guidance: str, tmp_path: Path) -> None:
    """In miniature, with random weights: it has no masks and only its own cameras."""
    weights = write_bright_weights(tmp_path / "tiny.safetensors", SEED)
    prior = open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config(str(weights))), CPU)
    source = source_of(2, guidance=guidance, steps=2)
    scene = syncdreamer.make_scene(NUMBER, source, prior)
    images, masks = syncdreamer.sample(source, prior, scene, NUMBER)
    assert images.shape == (2, 16, 32, 32, 3) and masks.shape == (2, 16, 32, 32, 1)
    assert masks.min() >= 0 and masks.max() <= 1 and masks.mean() > 0.1, f"seed {SEED}"
    row = Judge(None, "toy", None, CPU).compare({"one": (images, masks)}, scene)["one"]
    assert all(len(row[measure]) == 2 for measure in ("psnr", "ssim", "iou"))
    assert row["diversity"] > 0 and syncdreamer.score_of([row]) is not None


def test_silhouettes_of_a_prior_that_is_right(tmp_path: Path) -> None:
    prior, scene = ball_scene(tmp_path)
    pictures = syncdreamer.sample(source_of(3, steps=6), prior, scene, NUMBER)
    found = {"prior": pictures, **syncdreamer.baselines(scene, 0, 0)}
    rows = Judge(None, "toy", None, CPU).compare(found, scene)
    assert min(rows["prior"]["psnr"]) > 35  # samples deviate by 0.02 in latents, 0.01 in pixels: 40 dB
    assert min(rows["prior"]["iou"]) > 0.9  # of pale pixels at its outline, half may count as background
    assert rows["prior"]["psnr"][0] > rows["input repeated"]["psnr"][0] + 10


def test_views_are_compared_with_the_text_by_clip(tmp_path: Path, clip_folder: Path) -> None:
    _, scene = ball_scene(tmp_path)
    found = syncdreamer.baselines(scene, NUMBER, 2)  # mean views differ from the ball's, and from one another
    judge, other = Judge(clip_folder, "toy_bus1", None, CPU), Judge(clip_folder, "shoe", None, CPU)
    assert judge.text == "An image of toy bus" and judge.encoder.name == "CLIP (clip)"
    (name,) = set(found) - {"input repeated"}
    embedded = judge.encoder.images(found[name][0][0])
    distance, variance = cd_terms(embedded, judge.encoder.text("An image of toy bus"))  # type: ignore[union-attr]
    rows, other_rows = judge.compare(found, scene), other.compare(found, scene)
    assert rows[name]["cd distance"] == pytest.approx([distance.item()], rel=1e-5)
    assert rows[name]["cd variance"] == pytest.approx([variance.item()], rel=1e-4)
    assert syncdreamer.score_of([rows[name]]) == pytest.approx(cd_score(distance, variance), rel=1e-4)
    assert other_rows[name]["cd distance"] == rows[name]["cd distance"]
    assert other_rows[name]["cd variance"] != rows[name]["cd variance"]


def test_flow_error_is_a_column(tmp_path: Path) -> None:
    _, scene = ball_scene(tmp_path)
    judge = Judge(None, "toy", None, CPU)

    def estimate(images: Tensor, targets: Tensor) -> Tensor:
        """Estimate flow right by the change of the mean red, down by that of the mean blue."""
        assert images.shape[1:] == (256, 256, 3)
        change = (targets - images).mean(dim=(1, 2))[:, None, None, ::2]
        return change.expand(-1, *images.shape[1:3], -1)

    found = {**syncdreamer.baselines(scene, 0, 0), "truth": tuple(part[None] for part in scene.truth)}
    without = judge.compare(found, scene)
    judge.estimate = estimate
    rows = judge.compare(found, scene)
    assert "e_flow" not in without["truth"] and rows["truth"]["e_flow"] == [0]
    steps = scene.truth[0].mean(dim=(1, 2))[:, ::2]  # the repeated view does not move: the error is the true flow
    assert rows["input repeated"]["e_flow"] == pytest.approx(
        [(steps.roll(-1, 0) - steps).abs().mean().item()], rel=1e-3
    )
    assert len(columns([without])) == 1 + 9 + 2 and len(columns([rows])) == 1 + 12 + 2


def columns(rows: list[syncdreamer.Rows]) -> dict[str, list[str]]:
    return {str(column.header): [str(cell) for cell in column.cells] for column in syncdreamer.table_of(rows).columns}


def test_instances_are_summarized() -> None:
    def row(*psnr: float) -> dict[str, Any]:
        same = [0.5] * len(psnr)
        terms = {"cd distance": same, "cd variance": same, "diversity": 0.1 if len(psnr) > 1 else None}
        return {"psnr": list(psnr), "ssim": same, "iou": same, "e_flow": list(psnr), **terms}

    table = columns([{"two": row(20.0, 22.0), "one": row(20.0)}, {"two": row(23.0, 29.0), "one": row(20.0)}])
    assert table[""] == ["two", "one"]
    assert table["psnr"] == ["23.50 ± 2.50", "20.00 ± 0.00"]  # means 21 and 26: their error is 5 / 2
    assert table["psnr best"] == ["25.50 ± 3.50", ""] and table["psnr variance"] == ["5.0000 ± 4.0000", ""]
    assert table["e_flow best"] == ["21.500 ± 1.500", ""]
    assert table["ssim"][0] == "0.500 ± 0.000" and table["CD score"] == ["1.000", "1.000"]
    assert table["diversity"] == ["0.1000 ± 0.0000", ""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg", "0"], "--cfg: expected 1 or more, got 0; omit --cfg for the prior's default"),
        (["--cfg", "1", "0.5"], "--cfg: expected 1 or more, got 0.5"),
        (["--noun", "shoe"], "--noun: only CLIP encodes text"),
        (["--clip", "nowhere"], "nowhere: no such folder; CLIP is published"),
        (["--raft", "raft.pth"], "E_flow needs torchvision"),
        (["--weights", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--count", "0"], "--count: expected 1 or more"),
        (["--instances", "0"], "instances"),
    ],
)
def test_bad_arguments_fail_with_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # also where it is installed
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    assert syncdreamer.main(words) == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_from_arguments_to_a_table(
    tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two steps, which is enough for numbers."""
    make = syncdreamer.make_source
    quick = lambda instances, options, device: make(instances, {**options, "steps": 2}, device)  # noqa: E731
    monkeypatch.setattr(syncdreamer, "make_source", quick)
    words = ["--count", "1", "--instances", "1", "--mean-of", "0", "--clip", str(clip_folder), "--cfg", "1"]
    assert syncdreamer.main([*words, "--json", str(tmp_path / "all.json")]) == command_line.DONE
    out = capsys.readouterr().out
    assert "| cfg 1" in out and "| harmonyview 0.1, 0.1" in out and "CD score: An image of toy" in out
    data = json.loads((tmp_path / "all.json").read_text())
    assert data["meaning"] == "An image of toy" and len(data["objects"]) == 1
