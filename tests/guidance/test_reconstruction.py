"""Reconstruction guidance: it requests the pixels it compares, and a perfect render has zero loss."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import orbit
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.reconstruction import Reconstruction

SEEDS = [fresh_seed(__name__) for _ in range(3)]
CPU = torch.device("cpu")
ALL_LOSSES = ("rgb", "mask", "ssim", "mono_normal", "mono_depth")


def world(cameras: Cameras) -> dict[str, Tensor]:
    """Return image, mask, depth and normal as functions of a pixel's ray, so that wrong pixels are detected."""
    origins, directions = cameras.rays()
    wave = torch.sin(20 * directions + 3 * origins)
    mask = (wave.sum(-1, keepdim=True) > -0.5).float()
    return {"image": 0.5 + 0.4 * wave, "mask": mask, "depth": 2 + wave[..., :1], "normal": F.normalize(wave, dim=-1)}


def reference_views(count: int = 5, height: int = 30, width: int = 26, maps: bool = True) -> ReferenceViews:
    cameras = orbit(count, 24, [-20.0, 30.0]).resized(height, width)
    seen = world(cameras)
    return ReferenceViews(
        seen["image"],
        seen["mask"],
        cameras,
        tuple(map(str, range(count))),
        torch.zeros(count, dtype=torch.bool),
        seen["depth"] if maps else None,
        seen["normal"] if maps else None,
    )


def make(views: ReferenceViews | None = None, **options: object) -> Reconstruction:
    for name, value in options.items():
        if isinstance(value, float) and name.startswith("lambda_"):
            options[name] = Schedule.constant(value)
    return Reconstruction(Reconstruction.Config(**options), views=views or reference_views(), device=CPU)  # type: ignore[arg-type]


def perfect(cameras: Cameras) -> Render:
    seen = world(cameras)
    return Render(
        rgb=seen["image"] * seen["mask"] + 1 - seen["mask"],
        foreground=seen["image"] * seen["mask"],
        opacity=seen["mask"],
        irradiance=seen["image"].amax(-1, keepdim=True),
        normal=seen["normal"],
        depth=seen["depth"] * 2 + 1,  # another scale and shift
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("resolution", [0, 26, 13, 6])
def test_a_perfect_render_of_the_wanted_pixels_costs_nothing(resolution: int, seed: int) -> None:
    weights = {f"lambda_{name}": 1.0 for name in (*ALL_LOSSES, "illumination")}
    guidance = make(views_per_step=3, resolution=[resolution], **weights)
    request = guidance.request(0, generator(seed))
    cameras = request.cameras
    assert len(cameras) == 3 and cameras.width == (resolution or 26)
    losses = guidance.losses(request, perfect(cameras))
    assert set(losses) == {*ALL_LOSSES, "illumination"}
    for name, value in losses.items():
        # Rays of a lattice are recomputed: a rounding error of 1e-7 in them, 1e-5 in the images' SSIM
        assert abs(value.item()) < 1e-4, name
    wrong = guidance.losses(request, perfect(cameras.resized(cameras.height, cameras.width)[[1, 2, 0]]))
    assert all(wrong[name] > 0.01 for name in ALL_LOSSES), "the maps do not tell pixels apart"


@pytest.mark.parametrize("resolution", [0, 6])
def test_the_padding_of_photographs_costs_nothing(resolution: int) -> None:
    """No loss and no gradient there, whatever is rendered; the photograph itself is compared as ever."""
    whole = reference_views(1)
    left, top, right, bottom = 4, 0, 26, 22
    inside = torch.zeros_like(whole.masks)
    inside[:, top:bottom, left:right] = 1
    padded = replace(
        whole,
        images=whole.images * inside,
        masks=whole.masks * inside,
        windows=torch.tensor([[left, top, right, bottom]]),
    )
    guidance = make(padded, views_per_step=1, resolution=[resolution], lambda_ssim=1.0)
    request = guidance.request(0, generator())
    assert request.seen is not None
    true = perfect(request.cameras)
    assert all(value.abs() < 1e-4 for value in guidance.losses(request, true).values())
    wrong = Render(*(torch.rand_like(image).requires_grad_() for image in (true.rgb, true.foreground, true.opacity)))
    sum(guidance.losses(request, wrong).values()).backward()
    for image in (wrong.foreground, wrong.opacity):
        assert image.grad is not None
        changes = image.grad.abs().sum(-1, keepdim=True) > 0
        assert not changes[~request.seen].any() and changes[request.seen].any()


def test_the_lattice_starts_at_every_offset() -> None:
    guidance = make(resolution=[6])
    draw = generator()
    corners = {tuple(guidance.request(0, draw).cameras.cx[:1].tolist()) for _ in range(60)}
    assert len(corners) == 4  # 26 // 6 columns to begin at


def test_background_is_random_on_both_sides() -> None:
    """A white object over white does not constrain opacity unless the background changes."""
    views = reference_views()
    white = replace(views, images=torch.ones_like(views.images), masks=torch.ones_like(views.masks))

    def rgb_loss(random_background: bool) -> float:
        guidance = make(white, random_background=random_background, lambda_mask=0.0)
        request = guidance.request(0, generator())
        nothing = torch.zeros_like(request.images)
        return guidance.losses(request, Render(nothing + 1, nothing, nothing[..., :1]))["rgb"].item()

    assert rgb_loss(random_background=False) == 0
    assert rgb_loss(random_background=True) > 0.05


def test_views_are_drawn_without_repetition_and_all_of_them() -> None:
    guidance, draw, seen = make(views_per_step=4), generator(), set()
    for step in range(20):
        azimuths = guidance.request(step, draw).cameras.azimuth_deg.round().tolist()
        assert len(set(azimuths)) == 4
        seen |= set(azimuths)
    assert len(seen) == 5
    assert len(make(views_per_step=99).request(0, draw).cameras) == 5


def test_the_prompt_is_drawn_as_often_as_its_weight_says() -> None:
    views = replace(reference_views(), input_views=(3,))
    guidance = make(views, views_per_step=1, resolution=[4], input_view_weight=4)
    generator = torch.Generator().manual_seed(SEEDS[0])
    drawn = [guidance.request(step, generator).cameras.c2w[0] for step in range(400)]
    share = sum(torch.equal(c2w, views.cameras.c2w[3]) for c2w in drawn) / len(drawn)
    assert abs(share - 4 / 8) < 0.12  # 4 of 4 + 1 + 1 + 1 + 1; the deviation of 400 draws is 0.025


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("is_input", [True, False])
def test_generated_colours_count_less_where_the_picture_looks(seed: int, is_input: bool) -> None:
    priority = 0.1 + 0.8 * torch.rand((), generator=generator(seed)).item()
    views = (
        replace(reference_views(count=1), input_views=(0,))
        if is_input
        else replace(reference_views(count=2), input_views=(1,))
    )
    guidance = make(views, views_per_step=1, input_view_weight=1e3 if is_input else 1e-3, input_view_priority=priority)
    request = guidance.request(0, generator(seed))
    assert request.passes == {"normal", "points"}
    cameras = request.cameras
    assert torch.equal(cameras.c2w[0], views.cameras.c2w[0])
    exact = perfect(cameras)
    points = torch.rand((*exact.opacity.shape[:3], 3), generator=generator(seed)) - 0.5
    to_picture = F.normalize(views.cameras.centers[views.input_view] - points, dim=-1)
    left = torch.arange(cameras.width)[:, None] < cameras.width // 2  # [W, 1]: faces the picture, the rest looks away
    normal = torch.where(left, to_picture, -to_picture)

    def cost(wrong: Tensor) -> float:
        foreground = exact.foreground + 0.2 * wrong
        render = replace(exact, foreground=foreground, normal=normal, points=points)
        return guidance.losses(request, render)["rgb"].item()

    wanted = 1.0 if is_input else 1 - priority
    assert cost(left.float()) / cost(1 - left.float()) == pytest.approx(wanted, rel=1e-4)


def test_several_pictures_each_count_on_their_own_side() -> None:
    views = replace(reference_views(count=3), input_views=(1, 2))
    guidance = make(views, views_per_step=1, input_view_weight=1e-3, input_view_priority=0.8)
    request = guidance.request(0, generator())
    assert torch.equal(request.cameras.c2w[0], views.cameras.c2w[0])
    exact = perfect(request.cameras)
    points = torch.zeros(*exact.opacity.shape[:3], 3)

    left = torch.arange(request.cameras.width)[:, None] < request.cameras.width // 2  # faces a picture

    def cost(wrong: Tensor, normal: Tensor) -> float:
        render = replace(exact, foreground=exact.foreground + 0.2 * wrong, normal=normal, points=points)
        return guidance.losses(request, render)["rgb"].item()

    towards = F.normalize(views.cameras.centers, dim=-1)
    for picture in (1, 2):
        normal = torch.where(left, towards[picture], -towards[1] - towards[2]).expand_as(points)
        assert cost(left.float(), normal) / cost(1 - left.float(), normal) == pytest.approx(0.2, rel=1e-4)


def test_held_out_views_are_never_drawn() -> None:
    views = replace(reference_views(), held_out=torch.tensor([False, True, False, False, True]))
    guidance, draw = make(views, views_per_step=5), generator()
    drawn = {a for step in range(10) for a in guidance.request(step, draw).cameras.azimuth_deg.round().tolist()}
    assert drawn == {0.0, 144.0, 216.0}


def test_draws_depend_on_the_generator_alone() -> None:
    first, second = (make().request(step, generator(3)).cameras for step in (0, 7))
    assert torch.equal(first.c2w, second.c2w) and torch.equal(first.cx, second.cx)


def test_resolution_follows_its_milestones() -> None:
    guidance = make(resolution=[6, 13, 0], resolution_milestones=[10, 20])
    widths = [guidance.request(step, generator()).cameras.width for step in (0, 9, 10, 19, 20, 1000)]
    assert widths == [6, 6, 13, 13, 26, 26]


def test_only_active_losses_are_computed_and_only_needed_passes_asked_for() -> None:
    guidance = make(lambda_rgb=Schedule.parse([[5, 1.0], [6, 0.0]]), lambda_mono_normal=1.0)
    assert make().request(0, generator()).passes == frozenset()
    for step, wanted in ((5, {"rgb", "mask", "mono_normal"}), (6, {"mask", "mono_normal"})):
        request = guidance.request(step, generator())
        assert request.passes == {"normal"} and set(guidance.losses(request, perfect(request.cameras))) == wanted
    assert guidance.weight("rgb", 5) == 1.0 and guidance.is_used("rgb") and not guidance.is_used("ssim")


def test_gradients_flow_to_the_render() -> None:
    guidance = make(lambda_ssim=1.0, lambda_mono_normal=1.0, lambda_bilateral_normal=1.0, lambda_depth_smoothness=1.0)
    request = guidance.request(0, generator())
    render = perfect(request.cameras)
    leaves = {
        name: (0.9 * getattr(render, name)).requires_grad_() for name in ("foreground", "opacity", "normal", "depth")
    }
    torch.stack(list(guidance.losses(request, replace(render, **leaves)).values())).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", ["mono_normal", "mono_depth"])
def test_maps_that_are_missing(name: str) -> None:
    views = reference_views(maps=False)
    make(views)
    with pytest.raises(InputError, match=f"lambda_{name}: used, but the views have no {name[5:]} maps"):
        make(views, **{f"lambda_{name}": 1.0})


def test_no_views() -> None:
    with pytest.raises(InputError, match="needs reference views"):
        Reconstruction(Reconstruction.Config(), views=None, device=CPU)


def test_lpips_without_its_weights() -> None:
    with pytest.raises(InputError, match="lpips_weights"):
        make(lambda_lpips=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": []},
        {"resolution": [8, 16]},
        {"resolution": [8, 16, 32], "resolution_milestones": [20, 10]},
    ],
)
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="resolution"):
        Reconstruction.Config(**options)  # type: ignore[arg-type]
