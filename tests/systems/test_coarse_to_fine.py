"""The coarse-to-fine system: it learns, resumes exactly, and rejects what cannot work."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from helpers.tiny_scenes import is_closed, orbit, sphere_views
from lightning_fabric import Fabric
from torch import Tensor

from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.guidance.reconstruction import Reconstruction
from liftstudio.systems.coarse_to_fine import CoarseToFine

CPU = torch.device("cpu")
CONFIG = """
light: {type: spherical-gaussians, lobes: 4}
stages:
  coarse:
    steps: 40
    geometry:
      type: instant-ngp
      grid: {levels: 4, log2_table_size: 10, base_resolution: 4, finest_resolution: 16, hidden: 16}
      blob_density: 8.0
    renderer: {type: volume, samples_across: 32, grid_resolution: 16, update_every: 4, warm_up: 8}
    guidance:
      views: {type: reconstruction, views_per_step: 3}
    regularizers: {lambda_distortion: 0.001, lambda_albedo_smoothness: 0.001}
  fine:
    steps: 20
    geometry: {type: dmtet, from: coarse, resolution: 16}
    renderer: surface
    guidance:
      views: {type: reconstruction, views_per_step: 3, lambda_mono_normal: 0}
    optimizer: {groups: {geometry.sdf: {lr: [0, 0.01, 0.001, 20]}}}
    regularizers: {lambda_normal_consistency: 0.01}
"""


def config(**changes: object) -> dict[str, Any]:
    """Return CONFIG with some dotted keys (`__` for the dots) changed."""
    data = yaml.safe_load(CONFIG)
    for path, value in changes.items():
        *parents, last = path.split("__")
        block = data
        for key in parents:
            block = block[key]
        block[last] = value
    return data


def make(seed: int = 0, views: int = 6, **changes: object) -> CoarseToFine:
    return CoarseToFine(
        parse(config(**changes), CoarseToFine.Config),
        views=sphere_views(views, 16) if views else None,
        device=CPU,
        seed=seed,
        fabric=Fabric(accelerator="cpu", devices=1),
    )


def run(system: CoarseToFine, begin: int, end: int) -> list[dict[str, float]]:
    return [system.step(step) for step in range(begin, end)]


def tensors(state: Any) -> list[Tensor]:
    """Return all tensors of nested dicts and lists, in order."""
    if isinstance(state, Tensor):
        return [state]
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for child in children for tensor in tensors(child)]


def assert_same_state(first: Any, second: Any) -> None:
    assert len(tensors(first)) == len(tensors(second)) > 10
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def test_both_stages_learn() -> None:
    system = make()
    system.enter("coarse")
    coarse = run(system, 0, 40)
    assert {"loss", "views/rgb", "views/mask", "views/distortion", "views/albedo_smoothness"} == set(coarse[0])
    assert sum(r["views/rgb"] for r in coarse[-5:]) < 0.5 * sum(r["views/rgb"] for r in coarse[:5])
    system.enter("fine")
    fine = run(system, 0, 20)
    assert {"loss", "views/rgb", "views/mask", "normal_consistency"} == set(fine[0])
    assert sum(r["loss"] for r in fine[-5:]) < sum(r["loss"] for r in fine[:5])
    surface = system.surface()
    assert is_closed(surface.mesh) and not surface.mesh.vertices.requires_grad
    assert surface.mesh.vertices.norm(dim=-1).mean().item() == pytest.approx(0.5, abs=0.08)  # half a pixel is 0.07
    colors = surface.albedo(surface.mesh.vertices)
    shaded = surface.shaded(surface.mesh.vertices, surface.mesh.vertex_normals())
    irradiance = system.light.irradiance(surface.mesh.vertex_normals()).detach()
    torch.testing.assert_close(shaded, colors * irradiance)


def ball_volume(radius: float = 0.5, cells: int = 24) -> Tensor:
    """Return what a prior would say of a ball: 1 well inside, -1 well outside."""
    axis = (2 * torch.arange(cells) + 1) / cells - 1
    distance = torch.cartesian_prod(axis, axis, axis).norm(dim=-1) - radius
    return torch.tanh(-8 * distance).reshape([cells] * 3)


def with_volume(**changes: object) -> CoarseToFine:
    """Return a system whose views come with the volume of a ball."""
    views = replace(sphere_views(6, 16), input_views=(0,), inside=ball_volume())
    return CoarseToFine(
        parse(config(**changes), CoarseToFine.Config),
        views=views,
        device=CPU,
        seed=0,
        fabric=Fabric(accelerator="cpu", devices=1),
    )


def test_a_surface_starts_from_the_volume_of_the_prior() -> None:
    system = with_volume(stages__fine__geometry={"type": "dmtet", "from": "prior", "resolution": 48})
    system.enter("fine")
    mesh = system.surface().mesh
    assert is_closed(mesh)
    radii = mesh.vertices.norm(dim=-1)
    assert radii.mean().item() == pytest.approx(0.5, abs=0.03) and radii.std().item() < 0.03  # cells are 0.06 wide


BOTH_WAYS = {
    "stages__coarse__volume": "absent",
    "stages__fine__volume": "absent",
    "stages__surface": {
        "volume": "required",
        "steps": 5,
        "geometry": {"type": "dmtet", "from": "prior", "resolution": 16},
        "renderer": "surface",
        "guidance": {"views": {"type": "reconstruction", "views_per_step": 1, "generated_shape": False}},
    },
}


def test_the_volume_decides_which_stages_are_run() -> None:
    assert list(make(**BOTH_WAYS).stages) == ["coarse", "fine"]  # the views of `make` have no volume
    system = with_volume(**BOTH_WAYS)
    assert list(system.stages) == ["surface"]
    system.enter("surface")
    saved = copy.deepcopy(system.state())
    losses = run(system, 0, 3)
    resumed = with_volume(**BOTH_WAYS)
    resumed.enter("surface", saved)
    assert run(resumed, 0, 3) == losses


@pytest.mark.parametrize("generated_shape", [True, False])
def test_generated_views_may_change_only_colors(generated_shape: bool) -> None:
    guidance = {"type": "reconstruction", "views_per_step": 1, "generated_shape": generated_shape}
    geometry = {"type": "dmtet", "from": "prior", "resolution": 16}
    system = with_volume(stages__fine__guidance={"views": guidance}, stages__fine__geometry=geometry)
    system.enter("fine")
    shape, views = system.stage.scene.geometry, system.guidance["fine"]["views"]
    for is_input in (False, True):
        views.shares = torch.eye(6)[0] if is_input else 1 - torch.eye(6)[0]
        before = {name: value.detach().clone() for name, value in shape.named_parameters()}
        system.step(0)
        changed = {name for name, value in shape.named_parameters() if not torch.equal(before[name], value)}
        assert ("sdf" in changed) == (is_input or generated_shape)
        assert any(name.startswith("hash_field") for name in changed)


def test_an_empty_volume_is_none() -> None:
    views = replace(sphere_views(6, 16), input_views=(0,), inside=-torch.ones(8, 8, 8))
    fabric = Fabric(accelerator="cpu", devices=1)
    parsed = parse(config(**BOTH_WAYS), CoarseToFine.Config)
    assert list(CoarseToFine(parsed, views=views, device=CPU, seed=0, fabric=fabric).stages) == ["coarse", "fine"]


def test_the_total_is_the_weighted_sum() -> None:
    system = make(stages__coarse__guidance__views={"type": "reconstruction", "lambda_rgb": 3.0, "lambda_mask": 0.5})
    system.enter("coarse")
    losses = system.step(0)
    wanted = 3.0 * losses["views/rgb"] + 0.5 * losses["views/mask"]
    wanted += 0.001 * (losses["views/distortion"] + losses["views/albedo_smoothness"])
    assert losses["loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_it_resumes_exactly(stage: str) -> None:
    straight = make()
    straight.enter("coarse")
    if stage == "fine":
        run(straight, 0, 4)
        straight.enter("fine")
    run(straight, 0, 3)
    saved = copy.deepcopy(straight.state())
    rest = run(straight, 3, 6)
    resumed = make()
    resumed.enter(stage, saved)
    assert run(resumed, 3, 6) == rest
    assert_same_state(straight.state(), resumed.state())


def test_the_next_stage_is_the_same_after_a_restart() -> None:
    straight = make()
    straight.enter("coarse")
    run(straight, 0, 4)
    saved = copy.deepcopy(straight.state())
    straight.enter("fine")
    resumed = make()
    resumed.enter("coarse", saved)
    resumed.enter("fine")
    assert run(resumed, 0, 2) == run(straight, 0, 2)
    assert_same_state(straight.state(), resumed.state())


def test_same_seed_same_bytes() -> None:
    states = []
    for seed in (5, 5, 6):
        system = make(seed)
        system.enter("coarse")
        run(system, 0, 3)
        states.append(copy.deepcopy(system.state()))
    assert_same_state(states[0], states[1])
    tables = [state["scene"]["geometry.hash_field.table"] for state in states]
    assert not torch.equal(tables[0], tables[2])


def test_the_fine_stage_keeps_appearance_and_light() -> None:
    system = make()
    system.enter("coarse")
    run(system, 0, 6)
    before = {name: tensor.clone() for name, tensor in system.stage.scene.state_dict().items()}
    system.enter("fine")
    after = system.stage.scene.state_dict()
    kept = [name for name in before if name.startswith(("light.", "geometry.hash_field."))]
    assert len(kept) > 6
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_rendering_takes_no_gradients() -> None:
    system = make()
    system.enter("coarse")
    cameras = orbit(2, 8)
    first, second = (system.render(cameras, frozenset({"normal"})) for _ in range(2))
    assert first.normal is not None and not first.rgb.requires_grad
    assert torch.equal(first.rgb, second.rgb)


def test_guidance_joins_at_its_start() -> None:
    late = {"type": "reconstruction", "start": 2}
    system = make(stages__coarse__guidance={"early": "reconstruction", "late": late})
    system.enter("coarse")
    names = [{name.split("/")[0] for name in losses} for losses in run(system, 0, 3)]
    assert names == [{"loss", "early"}] * 2 + [{"loss", "early", "late"}]


def test_an_empty_surface_names_a_level() -> None:
    system = make(stages__coarse__geometry={"type": "instant-ngp", "surface_level": 1e9, "surface_resolution": 8})
    system.enter("coarse")
    with pytest.raises(InputError, match=r"no surface to export: .*surface_level="):
        system.surface()


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (10, r"^system\.stages\.fine: stage coarse has lost the object: .*; raise system\.stages\.coarse\.steps$"),
        (
            1,
            r"^system\.stages\.fine: stage coarse has lost the object: .*; the object is thin, about 7 % of its length",
        ),
    ],
)
def test_a_stage_that_lost_the_object_says_why(width: int, message: str) -> None:
    system = make(stages__coarse__geometry={"type": "instant-ngp", "density_bias": -30.0})
    assert system.views is not None
    system.views.masks.zero_()[:, 1:15, 3 : 3 + width] = 1
    system.enter("coarse")
    with pytest.raises(InputError, match=message):
        system.enter("fine")


NO_LOSS = {"type": "reconstruction", "lambda_rgb": 0, "lambda_mask": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": {}}, "at least one stage"),
        ({"stages__coarse__steps": 0}, r"^stages\.coarse\.steps: expected 1 or more, got 0$"),
        ({"stages__coarse__guidance": {}}, "at least one guidance"),
        ({"stages__fine__geometry__from": "corse"}, "expected 'coarse', the previous stage, or 'prior', got 'corse'"),
        ({"stages__fine__geometry__from": "prior"}, "fine.geometry.from: there is no volume to start from"),
        ({"stages__coarse__geometry": {"type": "instant-ngp", "from": "prior"}}, "cannot start from the volume"),
        ({"stages__coarse__volume": "required"}, "fine.geometry.from: expected 'prior', since this is the first stage"),
        (
            {"stages__coarse__volume": "required", "stages__fine__volume": "required"},
            "system.stages: none is for views with no volume",
        ),
        (
            {"stages__coarse__guidance__views": {"type": "reconstruction", "generated_shape": False}},
            "coarse.guidance.views.generated_shape: expected true, since 'instant-ngp' is a volume",
        ),
        (
            {"stages__fine__guidance__views__generated_shape": False},
            "generated_shape: expected true, since the input view is not among the views",
        ),
        ({"stages__coarse__geometry": {"type": "dmtet", "from": "coarse"}}, "this is the first stage"),
        (
            {"stages__fine__geometry": {"type": "dmtet", "from": "coarse", "subdivide": True}},
            "system.stages.fine.geometry.subdivide: expected false, since `from` names a stage without tetrahedra",
        ),
        ({"stages__fine__geometry": {"type": "instant-ngp", "from": "coarse"}}, "cannot start from another geometry"),
        ({"stages__fine__optimizer": {"groups": {"geometry.sdff": {"lr": 1}}}}, "system.stages.fine.optimizer.groups"),
        ({"stages__fine__guidance__views__lambda_mono_normal": 1}, "have no normal maps"),
        ({"views": 0}, "needs reference views"),
        ({"stages__coarse__geometry": {"type": "dmtet", "resolution": 8}}, "render it with 'surface'"),
        (
            {"stages__fine__regularizers": {"lambda_distortion": 1}},
            "fine.regularizers.lambda_distortion: needs a volume",
        ),
        ({"stages__coarse__regularizers": {"lambda_laplacian": 1}}, "lambda_laplacian: needs a surface"),
        (
            {"stages__fine__regularizers": {"lambda_normal_smoothness": 1}},
            "fine.regularizers.lambda_normal_smoothness: needs a volume",
        ),
        (
            {"stages__coarse__renderer": "neus"},
            "'instant-ngp' has no signed distance at arbitrary points; render it with 'volume'",
        ),
        (
            {"stages__fine__renderer": "neus"},
            "'dmtet' has no signed distance at arbitrary points; render it with 'surface'",
        ),
        ({"stages__coarse__geometry": "neus", "stages__coarse__renderer": "surface"}, "'neus' is a volume"),
        ({"stages__coarse__regularizers": {"lambda_eikonal": [5, 0, 1, 9]}}, "lambda_eikonal: needs a signed distance"),
    ],
)
def test_impossible_configs_are_refused_before_the_long_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_a_step_without_any_loss_is_refused() -> None:
    system = make(stages__coarse__guidance__views=NO_LOSS, stages__coarse__regularizers={})
    system.enter("coarse")
    with pytest.raises(InputError, match="no loss is active"):
        system.step(0)


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_images_are_not_compared_with_random_shading(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random shading changes steps of other guidance, but not of one that compares renders with images."""

    def losses_of(shaded: float) -> list[dict[str, float]]:
        material = {"type": "diffuse-point-light", "shaded": shaded}
        system = make(material=material, stages__fine__geometry={"type": "dmtet", "resolution": 16})
        system.enter(stage)
        return run(system, 0, 3)

    assert losses_of(1.0) == losses_of(0.0)
    monkeypatch.setattr(Reconstruction, "compares_pictures", False)
    assert losses_of(1.0) != losses_of(0.0)


def test_only_the_stages_that_are_run_are_checked_before_the_views_are_made() -> None:
    """A stage that is left out may be what another cannot do without."""
    options = parse(config(stages__coarse__volume="absent"), CoarseToFine.Config)
    CoarseToFine.check(options, has_volume=False)
    with pytest.raises(InputError, match="from: expected 'prior', since this is the first stage"):
        CoarseToFine.check(options, has_volume=True)
    start = parse(config(stages__fine__geometry__from="prior"), CoarseToFine.Config)
    CoarseToFine.check(start, has_volume=True)
    with pytest.raises(InputError, match="from: there is no volume to start from"):
        CoarseToFine.check(start, has_volume=False)


@pytest.mark.parametrize("order", [("held", "free"), ("free", "held"), ("held", "also held")])
def test_shape_regularizers_act_if_any_view_may_move_the_shape(order: tuple[str, str]) -> None:
    """In both orders of the guidances; the free one compares nothing that depends on the shape."""
    silent = {"lambda_rgb": 0, "lambda_mask": 0, "lambda_illumination": 0.1}
    blocks = {
        name: {"type": "reconstruction", "views_per_step": 1, **({} if held else silent), "generated_shape": not held}
        for name, held in ((name, "held" in name) for name in order)
    }
    geometry = {"type": "dmtet", "from": "prior", "resolution": 16}
    system = with_volume(stages__fine__guidance=blocks, stages__fine__geometry=geometry)
    system.enter("fine")
    for guidance in system.guidance["fine"].values():
        guidance.shares = 1 - torch.eye(6)[0]  # generated views alone
    before = system.stage.scene.geometry.sdf.detach().clone()
    system.step(0)
    assert torch.equal(system.stage.scene.geometry.sdf, before) == ("free" not in order)


def test_a_step_that_runs_out_of_memory_leaves_everything_as_it_was() -> None:
    whole, failing = make(), make()
    for system in (whole, failing):
        system.enter("coarse")
        run(system, 0, 4)  # at step 4 the occupancy grid is updated

    def fail(gradient: Tensor) -> None:
        raise MemoryError

    hook = failing.stage.scene.geometry.hash_field.table.register_hook(fail)
    with pytest.raises(MemoryError):
        failing.step(4)
    assert_same_state(failing.state(), whole.state())
    hook.remove()
    assert run(failing, 4, 10) == run(whole, 4, 10)
    assert_same_state(failing.state(), whole.state())
