"""Plain score distillation by the depth-conditioned model: its gradient, and that only texture learns."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import SIZE, TOKENS, fake_render, write_tiny_folder
from helpers.tiny_scenes import sphere_views
from lightning_fabric import Fabric
from torch import Tensor

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.hifi123 import model
from liftstudio.methods.hifi123.depth import depth_channel
from liftstudio.priors.samplers import scaled_linear_alpha_bars
from liftstudio.systems.coarse_to_fine import CoarseToFine

pytestmark = pytest.mark.usefixtures("opened_once")

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
CLS = registry.find("depth-sds", "guidance")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("hifi123") / "tiny", SEED)


@pytest.fixture(autouse=True)
def _here(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)


def options(**others: Any) -> dict[str, Any]:
    return {"prior": {"type": "sd2-depth", "weights": "tiny"}, **others}


def views() -> ReferenceViews:
    return replace(sphere_views(3, SIZE), input_views=(1,))


def make(**others: Any) -> Any:
    return CLS(parse(options(**others), CLS.Config, "texture"), views=views(), device=CPU)


@pytest.mark.parametrize("prompt", ["", "owl"])
def test_gradient_is_that_of_score_distillation(prompt: str) -> None:
    """(1 - alpha_bar) (eps_hat - eps) on the object's latents, over their number, through the encoder only.

    Without a prompt nothing is guided, whatever the scale.
    """
    generator, count = torch.Generator().manual_seed(SEED), 2
    guidance = make(
        prompt=prompt, guidance_scale=5.0, views_per_step=[count], min_step_percent=0.3, max_step_percent=0.6
    )
    request = guidance.request(0, generator)
    cameras = request.cameras
    assert len(cameras) == count and cameras.width == SIZE
    torch.testing.assert_close(cameras.distance, views().cameras.distance[:count])
    render = fake_render(generator, count)
    loss = guidance.losses(request, render)["sds"]
    (found,) = torch.autograd.grad(loss, render.foreground)

    score, prior = guidance.prior, guidance.prior.model
    latents = prior.encode(render.foreground + 0.5 * (1 - render.opacity))
    bars = scaled_linear_alpha_bars()
    alpha_bar = 1 / (1 + request.sigma**2)
    timestep = int((bars - alpha_bar).abs().argmin())
    assert 299 <= timestep <= 601
    noisy = alpha_bar**0.5 * latents.detach() + (1 - alpha_bar) ** 0.5 * request.noise
    depths = depth_channel(render.depth, render.opacity, (8, 8), "distance")
    scale = 5.0 if prompt else 1.0
    with torch.no_grad():
        epsilon = model.guided_epsilon(prior.unet, noisy, timestep, depths, prior.prompts(prompt), scale)
    mask = F.avg_pool2d(render.opacity.permute(0, 3, 1, 2), 4)
    push = (1 - alpha_bar) * mask * (epsilon - request.noise) / latents.numel()
    (wanted,) = torch.autograd.grad(latents, render.foreground, push)
    # To x0 and back in float32: eps is recovered from values several times larger.
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item(), msg=f"seed {SEED}")
    assert wanted.abs().max() > 0 and score.guidance_scale == (7.5 if prompt else 1.0)


@pytest.mark.parametrize("prompt", ["", "owl"])
def test_the_networks_work_is_counted(prompt: str) -> None:
    """Images per step: two per view with guidance; a resumed run continues the count."""
    generator, guidance = torch.Generator().manual_seed(SEED), make(prompt=prompt, guidance_scale=7.5)
    assert guidance.metrics() == {"unet_evaluations": 0}
    for step in range(2):
        request = guidance.request(step, generator)
        guidance.losses(request, fake_render(generator, len(request.cameras)))
    assert guidance.metrics() == {"unet_evaluations": 2 if prompt else 1}
    resumed = make(prompt=prompt)
    resumed.load_state(guidance.state())
    assert resumed.metrics() == guidance.metrics()


def test_flat_views_and_those_without_object(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat views use their outlines, empty ones are skipped, and each is logged once."""
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    generator, guidance = torch.Generator().manual_seed(SEED), make()
    for step in range(2):
        request = guidance.request(step, generator)
        render = fake_render(generator, 1)
        assert guidance.losses(request, replace(render, depth=3 * render.opacity))["sds"] > 0
        unseen = replace(render, opacity=torch.zeros_like(render.opacity))
        loss = guidance.losses(request, unseen)["sds"]
        (gradient,) = torch.autograd.grad(loss, render.foreground)
        assert loss == 0 and not gradient.any()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [text.partition(";")[0] for text in said] == [
        "SDS: the depth of a render is flat",
        "SDS: a render shows no object, or less than a pixel of the latents",
    ]


def test_the_prior_codes_pictures() -> None:
    score, generator = make().prior, torch.Generator().manual_seed(SEED)
    images = torch.rand(2, SIZE, SIZE, 3, generator=generator)
    latents = score.encode(images, torch.ones(2, SIZE, SIZE, 1))
    assert latents.shape == (2, *score.latent_shape)
    decoded, masks = score.decode(latents)
    assert decoded.shape == images.shape and masks is None
    assert not score.recognizes(None)


def test_texture_learns_and_geometry_stays() -> None:
    grid = {"levels": 4, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 16, "hidden": 16}
    stage = {
        "steps": 2,
        "geometry": {"type": "dmtet", "resolution": 8, "grid": grid},
        "renderer": "surface",
        "guidance": {"texture": {"type": "depth-sds", **options()}},
        "optimizer": {"groups": {"geometry.sdf": {"lr": 0}, "geometry.deformation": {"lr": 0}}},
    }
    config = parse({"stages": {"refine": stage}}, CoarseToFine.Config)
    fabric = Fabric(accelerator="cpu", devices=1)
    system = CoarseToFine(config, views=views(), device=CPU, seed=SEED % 2**31, fabric=fabric)
    system.enter("refine")
    before = {name: tensor.clone() for name, tensor in system.stage.scene.state_dict().items()}
    logged = [system.step(step) for step in range(2)]
    after: dict[str, Tensor] = system.stage.scene.state_dict()
    assert torch.equal(before["geometry.sdf"], after["geometry.sdf"])
    assert not torch.equal(before["geometry.hash_field.table"], after["geometry.hash_field.table"])
    assert all(entry["texture/sds"] > 0 for entry in logged)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "long prompt": ({"prompt": "a" * TOKENS}, rf"texture\.prompt: expected at most {TOKENS - 2} tokens, got {TOKENS}"),
    "no folder": ({"prior": {"type": "sd2-depth", "weights": "nowhere"}}, r"prior\.weights: nowhere: no such folder"),
    "noise": (
        {"min_step_percent": 0.9, "max_step_percent": 0.5},
        r"texture\.min_step_percent: expected at most max_step_percent",
    ),
    "another prior": ({"prior": {"type": "toys", "weights": "x"}}, "unknown depth-prior 'toys'"),
}


@pytest.mark.parametrize(("others", "message"), BAD.values(), ids=BAD)
def test_bad_input(others: dict[str, Any], message: str) -> None:
    """Reported when options are read, before views are made."""
    with pytest.raises(InputError, match=message) as error:
        parse(options(**others), CLS.Config, "texture")
    assert "\n" not in str(error.value)
