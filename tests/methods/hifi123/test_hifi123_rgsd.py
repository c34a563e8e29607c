"""RGSD: the loss is the distance from enhanced latents; modes alternate; texture learns, geometry does not."""

import copy
import itertools
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import SIZE, TOKENS, fake_render, tiny_unet, write_tiny_folder
from helpers.tiny_scenes import sphere_views
from lightning_fabric import Fabric
from torch import Tensor

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.schedules import OFF, ON
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.methods.hifi123 import ddim, model, rgnv, rgsd
from liftstudio.methods.hifi123.depth import depth_channel
from liftstudio.priors.samplers import scaled_linear_alpha_bars
from liftstudio.systems.coarse_to_fine import CoarseToFine

pytestmark = pytest.mark.usefixtures("opened_once")

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
LEVELS = 4
CLS = registry.find("hifi123-rgsd", "guidance")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("hifi123") / "tiny", SEED)


@pytest.fixture(autouse=True)
def _here(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written.parent)
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)


def options(**others: Any) -> dict[str, Any]:
    prior = {"type": "sd2-depth", "weights": "tiny"}
    quick = {"steps": 100, "levels": LEVELS, "last_layers": 2, "timesteps": [0, 100], "guidance_scale": 2.0}
    return {"prior": prior, **quick, **others}


def views(size: int = SIZE) -> ReferenceViews:
    return replace(sphere_views(3, size), input_views=(1,))


def make(**others: Any) -> Any:
    return CLS(parse(options(**others), CLS.Config, "texture"), views=views(), device=CPU)


@pytest.mark.parametrize("level", [0, 2, 3, 4])
def test_identity(level: int) -> None:
    """Alpha || z - sg(x0) ||^2, with x0 from the state one level higher; no gradient passes through the network."""
    generator = torch.Generator().manual_seed(SEED)
    unet, grid = tiny_unet(generator), ddim.TimestepGrid.of(scaled_linear_alpha_bars(), 20)
    form = rgnv.Form.symmetric(5, guidance_scale=3.0, last_layers=2)
    latents, depths = (torch.randn(3, channels, 8, 8, generator=generator) for channels in (4, 1))
    prompts = model.Prompts(*torch.randn(2, 1, TOKENS, 16, generator=generator))
    reference = rgnv.prepare_reference(unet, latents[:1], depths[:1], prompts.empty, grid, form)
    z = latents[1:].clone().requires_grad_()
    arguments = depths[1:], prompts, reference, grid, form
    target = rgsd.enhanced_target(unet, z, *arguments, level)
    assert not (target.state.requires_grad or target.epsilon.requires_grad)
    if level == 0:
        alpha, clean = 1.0, rgnv.enhance(unet, latents[1:], *arguments)
    else:
        higher = rgnv.enhance(unet, latents[1:], *arguments, stop=level + 1)
        predict = model.with_cached_reference(unet, depths[1:], prompts, 3.0, reference.keys_values, 2)
        with torch.no_grad():
            noise = predict(higher, grid.timesteps[level])
        beta, alpha = grid.alpha_bars[level + 1], grid.alpha_bars[level]
        clean = (higher - (1 - beta) ** 0.5 * noise) / beta**0.5
    mask = torch.rand(2, 1, 8, 8, generator=generator)
    loss = rgsd.state_distance(z, target, mask)
    difference = z.detach() - clean
    # Latents are of the order of 1 to 10, in float32.
    torch.testing.assert_close(loss.detach(), alpha * (mask * difference**2).mean(), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, 2 * alpha * mask * difference / z.numel(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(target.clean(), clean, rtol=1e-3, atol=1e-4, msg=f"seed {SEED}")
    with pytest.raises(InputError, match="level: expected 0 to 4, got 5"):  # no sampling step ends there
        rgsd.enhanced_target(unet, z, *arguments, 5)


def test_modes_alternate() -> None:
    """Fixed cameras cycle over even steps, counted from the start; random ones use odd steps and all levels."""
    guidance, generator = make(start=7, elevations_deg=[-10, 60]), torch.Generator().manual_seed(SEED)
    guidance._reference_depth = torch.ones(1, 1, 8, 8)
    picture = views().cameras[[1]]
    seen, levels = [], set()
    for step in range(7, 67):
        request = guidance.request(step, generator)
        camera = request.cameras
        assert len(camera) == 1 and camera.width == SIZE
        torch.testing.assert_close(camera.distance, picture.distance)
        torch.testing.assert_close(camera.fov_deg, picture.fov_deg)
        turn = (camera.azimuth_deg - picture.azimuth_deg + 180).item() % 360 - 180
        if (step - 7) % 2 == 0:
            assert turn == pytest.approx(90 if (step - 7) % 4 == 0 else -90, abs=1e-2)
            assert camera.elevation_deg.item() == pytest.approx(0, abs=1e-3) and request.level == 0
        else:
            assert -10.01 <= camera.elevation_deg.item() <= 60.01
            seen.append(turn)
            levels.add(request.level)
    assert min(seen) < -90 and max(seen) > 90 and levels == {2, 3}, f"seed {SEED}"


def run(guidance: Any, steps: int, generator: torch.Generator) -> list[tuple[Tensor, float]]:
    """Return (gradient of the texture, images through the UNet) at each step, on new renders."""
    found, before = [], 0.0
    for step in range(steps):
        request = guidance.request(step, generator)
        render = fake_render(generator, len(request.cameras))
        loss = guidance.losses(request, render)["rgsd"]
        (gradient,) = torch.autograd.grad(loss, render.foreground)
        total = guidance.metrics()["unet_evaluations"] * (step + 1)
        found.append((gradient, total - before))
        before = total
    return found


@pytest.mark.parametrize("prompt", ["", "owl"])
def test_fixed_targets_are_made_once_or_anew_every_so_often(prompt: str) -> None:
    """The UNet's work is counted: one image per inversion step, two per guided sampling step."""
    generator, per_step = torch.Generator().manual_seed(SEED), 2 if prompt else 1
    guidance = make(refresh_every=8, prompt=prompt)
    all_the_way = (LEVELS - 1) * (1 + per_step)
    found = run(guidance, 9, generator)
    work = [round(evaluations) for _, evaluations in found]
    assert work[::2] == [all_the_way, all_the_way, 0, 0, all_the_way], "of cameras 0, 1, 0, 1, and 0 after 8 steps"
    for evaluations in work[1::2]:
        assert evaluations in [LEVELS - 1 + (LEVELS - level) * per_step for level in (2, 3)]
    for gradient, _ in found:
        assert torch.isfinite(gradient).all() and gradient[:, 8:24, 8:24].abs().max() > 0
    figures = guidance.metrics()
    assert figures["fixed_distance"] > 0 and figures["random_distance"] > 0
    assert guidance.state()["targets"].keys() == {"0", "1"}


def test_a_flat_view_is_told_by_its_outline(caplog: pytest.LogCaptureFixture) -> None:
    """This is logged once."""
    guidance, generator = make(), torch.Generator().manual_seed(SEED)
    tilted, flat = (guidance._depths(fake_render(generator, flat=flat)) for flat in (False, True))
    guidance._depths(fake_render(generator, flat=True))
    assert warnings(caplog) == ["RGSD: the depth of a render is flat; the outline is used for such views"]
    assert set(flat.unique().tolist()) == {-1.0, 1.0} and len(tilted.unique()) > 4
    assert torch.equal(flat, make(depth="mask")._depths(fake_render(generator)))
    with pytest.raises(InputError, match="depth of view 0: flat"):
        ones = torch.ones(1, SIZE, SIZE, 1)
        depth_channel(ones, ones, (8, 8), "distance")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return all warnings except that of the missing prompt."""
    return [
        record.message for record in caplog.records if record.levelname == "WARNING" and "prompt" not in record.message
    ]


@pytest.mark.parametrize("depth", ["render", "mask"])
@pytest.mark.parametrize("width", [0, 1])
def test_a_turn_without_the_object_is_skipped(depth: str, width: int, caplog: pytest.LogCaptureFixture) -> None:
    """Out of view, or flat and thinner than half a latent pixel: the run continues, with one log line."""
    guidance, generator = make(depth=depth), torch.Generator().manual_seed(SEED)

    def thin(render: Render) -> Render:
        opacity = render.opacity.clone()
        opacity[0] = 0
        opacity[0, 8:24, 8 : 8 + width] = 1
        return replace(render, opacity=opacity, depth=3 * opacity)

    for step in (0, 1):
        request = guidance.request(step, generator)
        render = thin(fake_render(generator, len(request.cameras)))
        loss = guidance.losses(request, render)["rgsd"]
        (gradient,) = torch.autograd.grad(loss, render.foreground)
        assert loss == 0 and not gradient.any()
    said = [text for text in warnings(caplog) if "skipped" in text]
    assert said == ["RGSD: a render shows no object, or less than a pixel of the latents; such turns are skipped"]
    assert guidance.metrics() == {"unet_evaluations": 0} and not guidance.state()["targets"]
    request = guidance.request(2, generator)
    assert guidance.losses(request, fake_render(generator, len(request.cameras)))["rgsd"] > 0
    if depth == "render":
        unseen = make()
        request = unseen.request(0, generator)
        render = fake_render(generator, len(request.cameras))
        render.opacity[1] = 0
        with pytest.raises(InputError, match="RGSD: the input image's camera sees nothing"):
            unseen.losses(request, render)


def test_a_missing_prompt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    make(prompt="owl")
    assert "prompt" not in caplog.text
    make()
    assert "RGSD: no prompt, so text guidance is off" in caplog.text


def test_the_pictures_depth_is_asked_for_once() -> None:
    guidance, generator = make(), torch.Generator().manual_seed(SEED)
    first = guidance.request(0, generator)
    torch.testing.assert_close(first.cameras.c2w[1], views().cameras.c2w[1])
    guidance.losses(first, fake_render(generator, 2))
    second = guidance.request(1, generator)
    assert len(second.cameras) == 1 and second.passes == {"depth"}
    by_mask = make(depth="mask").request(0, generator)
    assert len(by_mask.cameras) == 1 and not by_mask.passes


def system(steps: int = 6) -> CoarseToFine:
    grid = {"levels": 4, "log2_table_size": 10, "base_resolution": 4, "finest_resolution": 16, "hidden": 16}
    frozen = {"geometry.sdf": {"lr": 0}, "geometry.deformation": {"lr": 0}}
    stage = {
        "steps": steps,
        "geometry": {"type": "dmtet", "resolution": 8, "grid": grid},
        "renderer": "surface",
        "guidance": {"texture": {"type": "hifi123-rgsd", **options()}},
        "optimizer": {"groups": frozen},
    }
    return CoarseToFine(
        parse({"stages": {"refine": stage}}, CoarseToFine.Config),
        views=views(),
        device=CPU,
        seed=SEED % 2**31,
        fabric=Fabric(accelerator="cpu", devices=1),
    )


def test_geometry_stays_texture_learns_and_a_resumed_stage_goes_on_exactly() -> None:
    straight = system()
    straight.enter("refine")
    before = copy.deepcopy(straight.stage.scene.state_dict())
    logged = [straight.step(step) for step in range(3)]
    state = copy.deepcopy(straight.state())
    logged += [straight.step(step) for step in range(3, 6)]
    after = straight.stage.scene.state_dict()
    for name in ("geometry.sdf", "geometry.deformation"):
        assert torch.equal(before[name], after[name]), f"{name} has moved"
    assert not torch.equal(before["geometry.hash_field.table"], after["geometry.hash_field.table"])
    assert {"texture/rgsd", "texture/unet_evaluations", "texture/random_distance"} <= logged[-1].keys()
    assert logged[0]["loss"] == pytest.approx(logged[0]["texture/rgsd"]), "figures are no losses"
    resumed = system()
    resumed.enter("refine", state)
    assert [resumed.step(step) for step in range(3, 6)] == logged[3:], f"seed {SEED}"
    assert all(torch.equal(after[name], tensor) for name, tensor in resumed.stage.scene.state_dict().items())


def test_texture_moves_towards_a_stored_target() -> None:
    """Plain gradient descent on a fixed camera's image reduces its distance from the target."""
    guidance, generator = make(), torch.Generator().manual_seed(SEED)
    render = fake_render(generator, len(guidance.request(0, generator).cameras))
    losses = []
    for step in (0, 4, 8, 12):
        loss = guidance.losses(guidance.request(step, generator), render)["rgsd"]
        (gradient,) = torch.autograd.grad(loss, render.foreground)
        losses.append(loss.item())
        pace = 0.02 * loss.item() / gradient.square().sum()  # lowers a linear function by a fiftieth
        render = replace(render, foreground=(render.foreground - pace * gradient).detach().requires_grad_())
    assert all(later < earlier for earlier, later in itertools.pairwise(losses)), f"{losses}, seed {SEED}"


def test_the_image_loss_compares_with_the_decoded_target() -> None:
    guidance, generator = make(lambda_rgsd=OFF, lambda_image=ON), torch.Generator().manual_seed(SEED)
    request = guidance.request(0, generator)
    render = fake_render(generator, len(request.cameras))
    found = guidance.losses(request, render)
    assert set(found) == {"image"}
    _, clean = guidance._targets[0]
    wanted = render.opacity[:1] * (render.over(0.5)[:1] - guidance.prior.decode(clean)).square()
    assert found["image"].item() == pytest.approx(wanted.mean().item(), rel=1e-4), f"seed {SEED}"
    (gradient,) = torch.autograd.grad(found["image"], render.foreground)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "long prompt": ({"prompt": "a" * TOKENS}, rf"texture\.prompt: expected at most {TOKENS - 2} tokens, got {TOKENS}"),
    "layers": ({"last_layers": 9}, r"texture\.last_layers: expected 1 to 7"),
    "no state": ({"timesteps": [600, 700]}, r"texture\.timesteps: expected a range with a multiple of 10 up to 20"),
    "levels": ({"levels": 101}, r"texture\.levels: expected 3 to 100, got 101"),
    "no fixed camera": ({"fixed_azimuths_deg": []}, r"texture\.fixed_azimuths_deg: expected at least 1"),
    "elevation": ({"elevations_deg": [0, 90]}, r"texture\.elevations_deg\[1\]: expected -89 to 89, got 90"),
    "elevations": (
        {"elevations_deg": [60, -10]},
        r"texture\.elevations_deg: expected the lower value first, got 60, -10",
    ),
    "timesteps": ({"timesteps": [500, 50]}, r"texture\.timesteps: expected the lower value first, got 500, 50"),
    "no folder": (
        {"prior": {"type": "sd2-depth", "weights": "nowhere"}},
        r"texture\.prior\.weights: nowhere: no such folder",
    ),
}


@pytest.mark.parametrize(("others", "message"), BAD.values(), ids=BAD)
def test_bad_input(others: dict[str, Any], message: str) -> None:
    """Reported when options are read, before views are made."""
    with pytest.raises(InputError, match=message) as error:
        parse(options(**others), CLS.Config, "texture")
    assert "\n" not in str(error.value)


def test_a_folder_is_opened_with_the_options(written: Path, tmp_path: Path) -> None:
    spoiled = Path(shutil.copytree(written, tmp_path / "spoiled"))
    (spoiled / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(InputError, match=r"texture\.prior\.weights: .*merges\.txt: no such file or folder; stable-"):
        parse(options(prior={"type": "sd2-depth", "weights": str(spoiled)}), CLS.Config, "texture")


def test_lost_detail_of_the_input_image_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    config = parse(options(), CLS.Config, "texture")
    for size, count in ((SIZE, 0), (48, 1)):
        CLS(config, views=views(size), device=CPU)
        assert len(warnings(caplog)) == count
    assert warnings(caplog)[0].startswith("RGSD: views of 48x48 pixels are reduced to the model's 32x32")


@pytest.mark.parametrize("given", [None, sphere_views(3, SIZE)], ids=["no views", "no picture"])
def test_without_a_picture(given: ReferenceViews | None) -> None:
    with pytest.raises(InputError, match="needs an input picture"):
        CLS(parse(options(), CLS.Config, "texture"), views=given, device=CPU)
