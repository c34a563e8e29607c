"""Plans say what each phase takes and what lowers it."""

from typing import Any

import pytest
import torch
from helpers.tiny_sv3d import write_tiny_sv3d

from liftstudio.cli import command_line
from liftstudio.cli.plan import report_of
from liftstudio.core.extensions import load_components
from liftstudio.priors.opening import open_prior
from liftstudio.priors.rehearsal import ENCODING
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.plan import Phase, advice, plan

CONFIG = """
image: asset://demo/toys/robot.png
prior: {type: sv3d, weights: FILE}
views: {type: sv3d-views, image: "${image}", elevation_deg: 10, prior: "${prior}", orbit: {frames: 5}, resolution: 64}
system:
  type: coarse-to-fine
  stages:
    coarse:
      steps: 50
      geometry: {type: instant-ngp, grid: {levels: 4, log2_table_size: 10, finest_resolution: 32}}
      renderer: {type: volume, samples_across: 32, grid_resolution: 16}
      guidance: {views: {type: reconstruction, resolution: [16]}}
    fine:
      steps: 50
      geometry: {type: dmtet, from: coarse, resolution: 16}
      renderer: surface
      guidance:
        views: {type: reconstruction, resolution: [16, 32], resolution_milestones: [30]}
        unseen: {type: sv3d-masked-sds, start: 20, prior: "${prior}", encoder_chunk: 5}
    finer:
      steps: 50
      geometry: {type: dmtet, from: fine, subdivide: true}
      renderer: surface
      guidance: {views: {type: reconstruction, resolution: [32]}}
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, list[Phase]]:
    folder = tmp_path_factory.mktemp("plan")
    weights = write_tiny_sv3d(folder / "sv3d_p.safetensors", image_size=64)
    (folder / "tiny.yaml").write_text(CONFIG.replace("FILE", str(weights)))
    load_components()
    config = load_run_config(folder / "tiny.yaml", [])
    return config, plan(config, "cuda")


def test_each_phase_has_what_it_needs(planned: tuple[RunConfig, list[Phase]]) -> None:
    config, (views, start, coarse, fine, finer) = planned
    assert [phase.name for phase in planned[1]] == ["views", "start", "coarse", "fine", "finer"]
    assert config.prior is not None
    prior: Any = open_prior(config.prior, torch.device("cpu"))
    unet, vae = (sum(each.nbytes for each in network.parameters()) for network in (prior.unet, prior.vae))
    assert views.weights == start.weights == pytest.approx(unet / 2 + vae, rel=1e-3), (
        "a card computes in half precision"
    )
    scene = coarse.weights - views.weights
    assert coarse.optimizer == pytest.approx(3 * scene, rel=0.01), "gradients and two running means"
    assert fine.during == ENCODING and fine.activations > coarse.activations
    assert 2 * (fine.weights - views.weights) < finer.weights - views.weights, "eight times as many cells, one grid"
    assert {phase.program for phase in planned[1]} == {0.5e9}


def test_advice_names_what_takes_the_memory(planned: tuple[RunConfig, list[Phase]]) -> None:
    config, phases = planned
    assert advice(config, phases[3]) == ["system.stages.fine.guidance.unseen.encoder_chunk=2 (now 5)"]
    fits, too_large = "\n".join(report_of(config, phases, 0.6)), "\n".join(report_of(config, phases, 0.52))
    assert "fits: 0.5 of 0.6 GB, in fine" in fits and "try" not in fits
    assert "does not fit" in too_large and "fine: try system.stages.fine.guidance.unseen.encoder_chunk=2" in too_large


@pytest.mark.parametrize(
    "words, message",
    [
        (["--plan", "--card", "abacus"], "--card abacus: unknown; known: rtx-3060"),
        (["--plan", "--card", "t4", "--memory", "3"], "--card, --memory: both given"),
        (["--plan", "--memory", "-1"], "--memory: expected gigabytes above 0"),
        (["--train", "--memory", "24"], "--card and --memory need --plan"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--config", "sv3d-masked-sds", *words]) == command_line.BAD_INPUT
    assert message in capsys.readouterr().err
