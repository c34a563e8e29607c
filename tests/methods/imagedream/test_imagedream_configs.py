"""ImageDream's and MVDream's configs match the released ones and what the bundled prior was trained for."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import sphere_views
from lightning_fabric import Fabric

from liftstudio.core import assets
from liftstudio.core.config import parse, read_config
from liftstudio.core.registry import find
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors.toys.prior import ToysPrior
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.systems.coarse_to_fine import CoarseToFine
from liftstudio.training.rigs import RigConfig

CPU = torch.device("cpu")
LENGTH = 1.8  # of an object here; in the released configurations it is 1
LATENTS = 4096  # elements of a view's latents: score distillation is a mean here and a sum there
OFFICIAL = ("imagedream", "mvdream")
# The released configurations (imagedream-sd21-shading.yaml; that of MVDream), in their own units.
RELEASED: dict[str, dict[str, Any]] = {
    "imagedream": {
        "steps": 12500,
        "views_per_step": [8, 4, 4],
        "resolution": [64, 192, 256],
        "resolution_milestones": [5000, 10000],
        "elevation_range_deg": (0, 5),
        "fov_range_deg": (45, 50),
        "half_view": (0.6, 0.75),
        "guidance_scale": 0,  # the prior's own, which is 5
        "rescale": 0.2,
        "sparsity": 1.0,
    },
    "mvdream": {
        "steps": 10000,
        "views_per_step": [8, 4],
        "resolution": [64, 256],
        "resolution_milestones": [5000],
        "elevation_range_deg": (0, 30),
        "fov_range_deg": (15, 60),
        "half_view": (0.8, 1.0),
        "guidance_scale": 50,
        "rescale": 0.5,
        "sparsity": 0.0,
    },
}


def load(name: str) -> RunConfig:
    return load_run_config(assets.packaged("configs") / f"{name}.yaml", [])


def stages(name: str) -> dict[str, Any]:
    return load(name).system.options.stages


@pytest.mark.parametrize("name", OFFICIAL)
def test_guidance_and_its_schedules(name: str) -> None:
    coarse, released = stages(name)["coarse"], RELEASED[name]
    guidance = coarse.guidance["mv"].options
    assert coarse.steps == released["steps"]
    for option in released.keys() & {field.name for field in fields(guidance)}:
        assert getattr(guidance, option) == released[option], option
    assert guidance.half_view_range == pytest.approx([LENGTH * half for half in released["half_view"]])
    for schedule, end in ((guidance.min_step_percent, 0.02), (guidance.max_step_percent, 0.5)):
        assert schedule == Schedule.parse([0, 0.98, end, 8000])
    assert guidance.loss == "reconstruction" and guidance.random_background == 0.5
    assert guidance.lambda_sds == Schedule.constant(1.0)


@pytest.mark.parametrize("name", OFFICIAL)
def test_views_show_as_much_as_the_guidance_renders(name: str) -> None:
    config = find(f"{name}-views", "views").Config
    half_view = config.distance * math.tan(math.radians(config.fov_deg / 2))
    low, high = (LENGTH * half for half in RELEASED[name]["half_view"])
    assert low <= half_view <= high
    assert name == "imagedream" or half_view == pytest.approx((low + high) / 2)


@pytest.mark.parametrize("name", OFFICIAL)
def test_regularisers_and_learning_rates(name: str) -> None:
    coarse = stages(name)["coarse"]
    given = {field.name: getattr(coarse.regularizers, field.name) for field in fields(coarse.regularizers)}
    orientation, sparsity = given.pop("lambda_orientation"), given.pop("lambda_sparsity")
    for step, weight in ((0, 10), (2500, 505), (5000, 1000), (12000, 1000)):
        assert orientation(step) == pytest.approx(weight / LATENTS, rel=0.03)
    assert sparsity == Schedule.constant(sparsity(0))
    assert sparsity(0) == pytest.approx(RELEASED[name]["sparsity"] / LATENTS, rel=0.03)
    assert all(schedule.is_zero() for schedule in given.values())
    assert coarse.optimizer.lr(0) == 0.001
    assert [group.lr(0) for group in coarse.optimizer.groups.values()] == [0.01]


@pytest.mark.parametrize("name", OFFICIAL)
def test_field_and_box(name: str) -> None:
    coarse = stages(name)["coarse"]
    geometry, grid = coarse.geometry.options, coarse.geometry.options.grid
    assert geometry.radius == LENGTH > coarse.guidance["mv"].options.half_view_range[1] - 1e-6, "all that is seen"
    sizes = (grid.levels, grid.features_per_level, grid.base_resolution, grid.finest_resolution)
    assert sizes == (16, 2, 16, 4096) and (grid.hidden, grid.layers) == (64, 1)
    assert grid.log2_table_size == 0, "which is 19 on CUDA"
    assert geometry.normals == "analytic"
    step = 2 * geometry.radius / coarse.renderer.options.samples_across
    assert step == pytest.approx(LENGTH * 3**0.5 * 2 / 512, rel=0.02)
    assert coarse.renderer.options.normal_gradients


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_first_shape(name: str) -> None:
    """Optical depth along lines at some distance from the centre; the released density is softplus(10 - 20 |x|)."""
    options = read_config(assets.packaged("configs") / f"{name}.yaml", [])["system"]["stages"]["coarse"]["geometry"]
    kind = find(options.pop("type"), "geometry")
    config = parse(options | {"grid": {"log2_table_size": 8}}, kind.Config)
    geometry = kind(config, device=CPU, generator=torch.Generator().manual_seed(0))
    along = torch.linspace(-0.999, 0.999, 1000)
    for offset, most in ((0.0, 0.1), (0.2, 0.25), (0.4, 0.25), (0.45, 0.1)):
        points = torch.stack([torch.full_like(along, offset), torch.zeros_like(along), along], dim=-1)
        released = 2 * F.softplus(10 - 20 * points.norm(dim=-1)).mean().item()
        with torch.no_grad():
            found = 2 * LENGTH * geometry.field(LENGTH * points)[0].mean().item()
        assert found == pytest.approx(released, rel=most), offset
    with torch.no_grad():
        assert geometry.field(torch.tensor([[0.0, 1.5, 0.0]]))[0].item() < 0.1, "nothing where nothing will be"


@pytest.mark.parametrize("name", OFFICIAL)
def test_light_and_background(name: str) -> None:
    system = load(name).system.options
    material, coarse = system.material.options, system.stages["coarse"]
    assert system.material.type == "diffuse-point-light" and system.background.type == "directional"
    assert material.spread == pytest.approx(LENGTH) and material.textureless == 0.5
    assert material.distance == pytest.approx((0.8 * LENGTH, 1.5 * LENGTH))
    assert [material.shaded(step) for step in (0, 5000, 5001, coarse.steps)] == [0, 0, 0.75, 0.75]


def test_there_is_no_default_caption_for_the_users_image() -> None:
    """There is no default caption for the user's own image."""
    config = load("imagedream")
    assert config.prompt == "" and config.views is not None and config.views.options.prior.options.prompt == ""


def test_shading_goes_on_in_the_next_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its schedule counts the steps of all stages."""
    stage = {"renderer": "surface", "guidance": {"views": "reconstruction"}, "optimizer": {"lr": 0.001}}
    spec = {
        "material": {"type": "diffuse-point-light", "shaded": [[1, 0], [2, 1]]},
        "stages": {
            "first": stage | {"steps": 2, "geometry": {"type": "dmtet", "resolution": 16}},
            "second": stage | {"steps": 2, "geometry": {"type": "dmtet", "resolution": 16}},
        },
    }
    system = CoarseToFine(
        parse(spec, CoarseToFine.Config),
        views=sphere_views(3, 16),
        device=CPU,
        seed=0,
        fabric=Fabric(accelerator="cpu", devices=1),
    )
    steps: list[int] = []
    draw = system.material.draw_shading
    monkeypatch.setattr(
        system.material, "draw_shading", lambda step, generator: steps.append(step) or draw(step, generator)
    )
    for name in ("first", "second"):
        system.enter(name)
        for step in range(2):
            system.step(step)
    system.enter("second", system.state())  # as in a resumed run
    system.step(1)
    assert steps == [0, 1, 2, 3, 3]


def warnings_of_toys(caplog: pytest.LogCaptureFixture, prompt: tuple[float, float, float], fov_deg: Any) -> str:
    """Return the warnings for an image at (azimuth, elevation, field of view), and views of other fields of view."""
    prior = ToysPrior.__new__(ToysPrior)
    azimuth, elevation, own_fov = (torch.tensor([angle]) for angle in prompt)
    cameras = [orbit_cameras(torch.zeros(1), torch.zeros(1), 3.0, fov, 8, 8) for fov in fov_deg]
    caplog.clear()
    for one in cameras:
        prior.check_cameras(orbit_cameras(azimuth, elevation, 3.0, own_fov.item(), 8, 8), one)
    return caplog.text


@pytest.mark.parametrize(
    "name", ["imagedream", "imagedream-toys", "imagedream-mesh-toys", "imagedream-sphere-toys", "hifi123-toys"]
)
def test_the_bundled_prior_knows_the_shipped_views(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = load(name)
    assert config.views is not None
    views = config.views.options
    ranges = [
        fov
        for stage in config.system.options.stages.values()
        for block in stage.guidance.values()
        for fov in getattr(block.options, "fov_range_deg", ())
    ]
    assert views.elevation_deg == "auto"
    prompt = (getattr(views, "azimuth_deg", 0.0), 20.0, views.fov_deg)
    assert not warnings_of_toys(caplog, prompt, [views.fov_deg, *ranges])


UNKNOWN = {
    "field of view: 33.8 to 60 degrees; toys (bundled) was trained for 25 to 50 degrees": ((0, 10, 33.8), [60.0]),
    "field of view: 20 to 33.8 degrees": ((0, 10, 20), [33.8]),
    "elevation of the input image: 45 to 45 degrees; toys (bundled) was trained for -10 to 40": ((0, 45, 33.8), [33.8]),
    "azimuth of the input image: -60 to -60 degrees; toys (bundled) was trained for -46": (
        (300, 10, 33.8),
        [33.8],
    ),
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_views_the_bundled_prior_does_not_know(message: str, caplog: pytest.LogCaptureFixture) -> None:
    said = warnings_of_toys(caplog, *UNKNOWN[message])
    assert message in said and said.count("trained for") == 1
    assert not warnings_of_toys(caplog, (-46.0, -10.0, 25.0), [50.0])


def test_what_the_bundled_prior_was_trained_for() -> None:
    rig = RigConfig()
    assert rig.lens_fov_deg == ToysPrior.trained_fov_deg
    assert rig.input_elevation_deg == ToysPrior.trained_elevation_deg
    assert (-rig.input_azimuth_deg, rig.input_azimuth_deg) == ToysPrior.trained_azimuth_deg
    assert "rig" not in read_config(assets.packaged("configs") / "priors" / "toys.yaml", [])["data"]
