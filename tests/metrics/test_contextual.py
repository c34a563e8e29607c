import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.metrics.contextual import PixelPatches, Vgg, contextual_distance, contextual_similarity, load_features
from liftstudio.metrics.lpips import Lpips

SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def by_loops(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Compute the definition element by element."""
    mean = [sum(row) / len(y) for row in y.T.tolist()]
    x_rows, y_rows = ([[v - m for v, m in zip(row, mean, strict=True)] for row in z.tolist()] for z in (x, y))

    def cosine_distance(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return 1 - dot / math.hypot(*a) / math.hypot(*b)

    best = [0.0] * len(y_rows)
    for row in x_rows:
        distances = [cosine_distance(row, other) for other in y_rows]
        least = min(distances)
        weights = [math.exp((1 - d / (least + 1e-5)) / bandwidth) for d in distances]
        best = [max(b, w / sum(weights)) for b, w in zip(best, weights, strict=True)]
    return sum(best) / len(best)


@pytest.mark.parametrize(("n", "m", "c"), [(1, 1, 1), (1, 7, 3), (7, 1, 3), (13, 9, 5), (20, 20, 2)])
@pytest.mark.parametrize("bandwidth", [0.1, 0.5, 2.0])
def test_equals_the_definition(n: int, m: int, c: int, bandwidth: float, generator: torch.Generator) -> None:
    x, y = draw(generator, n, c), draw(generator, m, c)
    if m == 1:  # a single target equals the mean and has no direction: it gets all similarity
        assert contextual_similarity(x, y, bandwidth) == 1
        return
    expected = by_loops(x, y, bandwidth)
    # Rounding of a distance near 0 is magnified by 1 / (epsilon h), in an exponent.
    assert contextual_similarity(x, y, bandwidth).item() == pytest.approx(expected, rel=1e-8), f"seed {SEED}"
    if bandwidth >= 0.5:
        single = contextual_similarity(x.float(), y.float(), bandwidth).item()
        assert single == pytest.approx(expected, rel=0.1), f"seed {SEED}"


def test_many_features_a_part_at_a_time(generator: torch.Generator) -> None:
    """Comparing features in chunks gives the same as all at once."""
    x, y = draw(generator, 2600, 4), draw(generator, 2500, 4)
    unit = [F.normalize(each - y.mean(0), dim=1) for each in (x, y)]
    distances = 1 - unit[0] @ unit[1].T
    weights = ((1 - distances / (distances.amin(1, keepdim=True) + 1e-5)) / 0.5).exp()
    expected = (weights / weights.sum(1, keepdim=True)).amax(0).mean()
    torch.testing.assert_close(contextual_similarity(x, y), expected, rtol=1e-6, atol=0, msg=f"seed {SEED}")


def test_places_do_not_matter(generator: torch.Generator) -> None:
    x, y = draw(generator, 30, 6), draw(generator, 25, 6)
    order = [torch.randperm(len(each), generator=generator) for each in (x, y)]
    found = contextual_similarity(x[order[0]], y[order[1]])
    torch.testing.assert_close(found, contextual_similarity(x, y), rtol=1e-7, atol=0)
    scaled = contextual_similarity(3 * x + 2, 3 * y + 2)  # neither do a common scale and offset
    torch.testing.assert_close(scaled, contextual_similarity(x, y), rtol=1e-6, atol=0)


def test_nearest_to_itself_and_farther_the_more_differs(generator: torch.Generator) -> None:
    y = draw(generator, 40, 8)
    assert contextual_similarity(y, y).item() == pytest.approx(1, abs=1e-9), f"seed {SEED}"
    noise = draw(generator, 40, 8)
    found = [contextual_similarity(y + share * noise, y).item() for share in (0, 0.5, 1, 5)]
    assert all(a > b for a, b in itertools.pairwise(found)), f"{found}, seed {SEED}"
    part = contextual_similarity(y[:20], y)  # half of the targets are found, the others only resembled
    assert 0.5 - 1e-9 < part < 0.9


def test_equal_targets_share(generator: torch.Generator) -> None:
    """Each of r equal features counts 1 / r, against itself and against any other image."""
    y = torch.cat([draw(generator, 1, 5).expand(4, -1), draw(generator, 6, 5)])
    assert contextual_similarity(y, y).item() == pytest.approx((4 / 4 + 6) / 10, abs=1e-9), f"seed {SEED}"
    constant = torch.full((9, 5), 0.3)
    assert contextual_similarity(constant, constant).item() == pytest.approx(1 / 9)
    assert contextual_similarity(draw(generator, 9, 5).float(), constant).item() == pytest.approx(1 / 9)
    assert contextual_similarity(constant.double(), draw(generator, 9, 5)) > 0


@pytest.mark.parametrize("case", ["random", "equal", "constant", "constant target"])
def test_gradient(case: str, generator: torch.Generator) -> None:
    x, y = draw(generator, 12, 4), draw(generator, 10, 4)
    if case != "random":
        x = {"equal": y, "constant": torch.full_like(y, 0.2), "constant target": x}[case]
        y = torch.full_like(y, 0.2) if case == "constant target" else y
    x = x.clone().requires_grad_()
    contextual_similarity(x, y).log().backward()
    assert x.grad is not None and x.grad.isfinite().all(), f"seed {SEED}"
    if case == "random":
        direction = draw(generator, 12, 4)
        with torch.no_grad():
            ends = [contextual_similarity(x + step * direction, y).log() for step in (1e-6, -1e-6)]
        # Unless the nearest target changes within the step, with a probability below 1e-6.
        torch.testing.assert_close((x.grad * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-3, atol=1e-6)


def images_of(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, 3, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (12, 12), (17, 10)])
def test_patches_are_the_pixels_around(height: int, width: int, generator: torch.Generator) -> None:
    images = images_of(generator, 2, height, width)
    (maps,) = PixelPatches().maps(images)
    assert maps.shape == (2, (height + 1) // 2, (width + 1) // 2, 75)
    row, column = 1, 2  # of the features: around pixel (2, 4), all inside
    patch = images[:, 0:5, 2:7].permute(0, 3, 1, 2).flatten(1)
    assert torch.equal(maps[:, row, column], patch)
    corner = maps[0, 0, 0].view(3, 5, 5)
    assert torch.equal(corner[:, 0, 0], images[0, 0, 0]) and torch.equal(corner[:, 4, 3], images[0, 2, 1])


def test_distance_of_images(generator: torch.Generator) -> None:
    """Pairs are independent and of any two sizes; only masked parts count."""
    images, targets = images_of(generator, 2, 16, 20), images_of(generator, 2, 14, 14)
    found = contextual_distance(images, targets, PixelPatches())
    single = [contextual_distance(images[[i]], targets[[i]], PixelPatches()) for i in range(2)]
    torch.testing.assert_close(found, torch.cat(single))
    assert (contextual_distance(images, images, PixelPatches()).abs() < 1e-3).all()
    masks = torch.zeros(2, 16, 20, 1)
    masks[:, 4:12, 4:12] = 1
    # Patches reach two pixels beyond the mask: those stay, the rest is painted over.
    other = images.clone()
    other[:, :2], other[:, 14:], other[:, :, :2], other[:, :, 14:] = 0, 1, 1, 0
    inside = contextual_distance(images, targets, PixelPatches(), masks)
    torch.testing.assert_close(contextual_distance(other, targets, PixelPatches(), masks), inside)
    assert (inside > found).all(), f"seed {SEED}"  # fewer features to choose from
    assert (contextual_distance(other, images, PixelPatches(), masks, masks).abs() < 1e-3).all()


def test_of_shifted_texture_more_is_found_than_of_blurred_or_other_colours(generator: torch.Generator) -> None:
    coarse = images_of(generator, 1, 12, 12).permute(0, 3, 1, 2)
    texture = F.interpolate(coarse, scale_factor=2.0, mode="bilinear").permute(0, 2, 3, 1)
    shifted = texture.roll((4, 6), (1, 2))
    blurred = F.interpolate(F.avg_pool2d(coarse, 2), scale_factor=4.0, mode="bilinear").permute(0, 2, 3, 1)
    found = [contextual_distance(each, texture, PixelPatches()).item() for each in (shifted, blurred, 1 - texture)]
    assert 0.1 < found[0] < min(found[1:]), f"{found}, seed {SEED}"


def test_image_gradients_are_finite(generator: torch.Generator) -> None:
    images = images_of(generator, 1, 12, 12).requires_grad_()
    flat = torch.full((1, 12, 12, 3), 0.5, requires_grad=True)
    for image in (images, flat):
        contextual_distance(image, images_of(generator, 1, 12, 12), PixelPatches()).sum().backward()
        assert image.grad is not None and image.grad.isfinite().all(), f"seed {SEED}"


def test_vgg_layers(tmp_path: Path, generator: torch.Generator) -> None:
    """Layer names correspond to torchvision's numbered names."""
    network = Lpips("vgg16")
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 / max(parameter[0].numel(), 1) ** 0.5)
    save_file(network.state_dict(), tmp_path / "vgg.safetensors")
    features = load_features(tmp_path / "vgg.safetensors")
    assert isinstance(features, Vgg) and "VGG-16" in features.name
    images = images_of(generator, 2, 32, 40)
    maps = features.maps(images)
    assert [list(each.shape) for each in maps] == [[2, 8, 10, 256], [2, 4, 5, 512]]
    state, x = network.state_dict(), ((2 * images - 1).permute(0, 3, 1, 2))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (x - shift[:, None, None]) / scale[:, None, None]
    outputs = {}
    for name, index in {"1_1": 0, "1_2": 2, "2_1": 5, "2_2": 7, "3_1": 10, "3_2": 12, "3_3": 14, "4_1": 17}.items():
        x = F.max_pool2d(x, 2) if name.endswith("_1") and index else x
        x = F.relu(F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1))
        outputs[name] = x
    torch.testing.assert_close(maps[0], outputs["3_2"].permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    last = F.relu(F.conv2d(x, state["features.19.weight"], state["features.19.bias"], padding=1))
    torch.testing.assert_close(maps[1], last.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)
    targets = images_of(generator, 2, 32, 32)
    found = contextual_distance(images, targets, features)
    each = zip(features.maps(images), features.maps(targets), strict=True)
    by_layer = [contextual_similarity(x[0].flatten(0, 1), y[0].flatten(0, 1)).log() for x, y in each]
    torch.testing.assert_close(found[0], -torch.stack(by_layer).sum(), msg=f"seed {SEED}")


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    assert isinstance(load_features(None), PixelPatches) and "not VGG" in load_features("").name
    with pytest.raises(InputError, match="no LPIPS weights there"):
        load_features(tmp_path / "nowhere.pth")


def test_bad_input(generator: torch.Generator) -> None:
    images, empty = images_of(generator, 2, 12, 12), torch.zeros(2, 12, 12, 1)
    empty[0] = 1
    with pytest.raises(ValueError, match=r"^masks: no object in image 1, or smaller than one of its 6x6 features"):
        contextual_distance(images, images, PixelPatches(), empty)
    with pytest.raises(ValueError, match=r"^target_masks: no object in image 1"):
        contextual_distance(images, images, PixelPatches(), None, empty)
    with pytest.raises(ValueError, match=r"target_masks: expected shape \[2, H, W, 1\]"):
        contextual_distance(images, images, PixelPatches(), None, empty[:1])
    with pytest.raises(ValueError, match=r"targets: expected shape \[2, H, W, 3\]"):
        contextual_distance(images, images[:1], PixelPatches())
    with pytest.raises(ValueError, match=r"targets: expected shape \[M, 4\]"):
        contextual_similarity(torch.rand(3, 4), torch.rand(3, 5))
    with pytest.raises(ValueError, match="expected features, got 0 and 3"):
        contextual_similarity(torch.rand(0, 4), torch.rand(3, 4))
    with pytest.raises(InputError, match="bandwidth: expected"):
        contextual_similarity(torch.rand(3, 4), torch.rand(3, 4), 0.0)
