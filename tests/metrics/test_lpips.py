from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.metrics.lpips import Lpips, Network, load_lpips

# Convolutions of torchvision's `features`: (index, channels out, kernel).
CONVOLUTIONS: dict[Network, list[tuple[int, int, int]]] = {
    "vgg16": [
        (index, channels, 3)
        for indices, channels in (((0, 2), 64), ((5, 7), 128), ((10, 12, 14), 256), ((17, 19, 21, 24, 26, 28), 512))
        for index in indices
    ],
    "alexnet": [(0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3)],
}
HEADS: dict[Network, list[int]] = {"vgg16": [64, 128, 256, 512, 512], "alexnet": [64, 192, 384, 256, 256]}


def random_weights(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return state dicts with the keys and shapes of the published files."""
    backbone: dict[str, Tensor] = {"classifier.6.bias": torch.zeros(1000)}
    channels = 3
    for index, out, kernel in CONVOLUTIONS[network]:
        backbone[f"features.{index}.weight"] = torch.randn(out, channels, kernel, kernel) / (channels**0.5 * kernel)
        backbone[f"features.{index}.bias"] = 0.1 * torch.randn(out)
        channels = out
    heads = {f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1) for i, channels in enumerate(HEADS[network])}
    return backbone, heads


def functional_lpips(network: Network, state: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
    """Compute the definition layer by layer, channel-last where possible."""

    def convolve(x: Tensor, index: int, stride: int = 1, padding: int = 1) -> Tensor:
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding))

    def vgg16(x: Tensor) -> list[Tensor]:
        taps = []
        for group in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            x = F.max_pool2d(x, 2) if group[0] else x
            for index in group:
                x = convolve(x, index)
            taps.append(x)
        return taps

    def alexnet(x: Tensor) -> list[Tensor]:
        a = convolve(x, 0, 4, 2)
        b = convolve(F.max_pool2d(a, 3, 2), 3, 1, 2)
        c = convolve(F.max_pool2d(b, 3, 2), 6)
        d = convolve(c, 8)
        return [a, b, c, d, convolve(d, 10)]

    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    extract = vgg16 if network == "vgg16" else alexnet
    total = torch.zeros(len(image))
    features = [extract((((2 * i - 1) - shift) / scale).permute(0, 3, 1, 2)) for i in (image, target)]
    for level, (a, b) in enumerate(zip(*features, strict=True)):
        a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (a, b))
        total += (state[f"lin{level}.model.1.weight"] * (a - b).square()).sum(1).mean(dim=(1, 2))
    return total


@pytest.mark.parametrize("network", ["vgg16", "alexnet"])
def test_equals_the_functional_form(network: Network, tmp_path: Path) -> None:
    backbone, heads = random_weights(network)
    torch.save(backbone, tmp_path / "backbone.pth")
    save_file(heads, tmp_path / "heads.safetensors")
    model = load_lpips(tmp_path, network)
    image, target = torch.rand(2, 2, 40, 52, 3)
    expected = functional_lpips(network, {**backbone, **heads}, image, target)
    assert torch.allclose(model(image, target), expected, rtol=1e-4)  # float32 sums in another order
    assert (model(image, image) == 0).all()
    one_file = tmp_path / "all.safetensors"
    save_file({**backbone, **heads}, one_file)
    assert torch.equal(load_lpips(one_file, network)(image, target), model(image, target))


def test_gradient_flows_to_the_image_alone() -> None:
    torch.manual_seed(0)
    model = Lpips("alexnet").double()
    target = torch.rand(1, 32, 32, 3, dtype=torch.float64)
    image = target.clone().requires_grad_()
    direction = torch.randn_like(image)
    (gradient,) = torch.autograd.grad(model(image + 0.1, target).sum(), image)
    with torch.no_grad():
        ends = [model(image + 0.1 + step * direction, target) for step in (1e-6, -1e-6)]
    assert torch.allclose((gradient * direction).sum(), (ends[0] - ends[1])[0] / 2e-6, rtol=1e-4)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradient_is_finite_at_equal_and_dead_features(value: float) -> None:
    model = Lpips("alexnet")
    model.features[0].bias.fill_(-1e3)  # every activation is zero: the length of the feature has no derivative
    image = torch.full((1, 32, 32, 3), value, requires_grad=True)
    model(image, torch.full((1, 32, 32, 3), value)).sum().backward()
    assert image.grad is not None and image.grad.isfinite().all()


def test_missing_files_are_named_with_their_source(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(InputError, match=r"no LPIPS weights.*vgg16-397923af\.pth.*PerceptualSimilarity"):
            load_lpips(path)


def test_corrupt_file(tmp_path: Path) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(InputError, match=f"{name}: not a readable weight file"):
            load_lpips(tmp_path / name)


def test_keys_and_shapes_are_strict(tmp_path: Path) -> None:
    backbone, heads = random_weights("alexnet")
    state = {**backbone, **heads}
    path = tmp_path / "all.pth"

    def refused(changed: dict[str, Tensor], match: str) -> None:
        torch.save(changed, path)
        with pytest.raises(InputError, match=match):
            load_lpips(path, "alexnet")

    refused({k: v for k, v in state.items() if k != "features.3.bias"}, r"'features\.3\.bias' is missing")
    refused({k: v for k, v in state.items() if not k.startswith("lin")}, r"'lin0\.model\.1\.weight' is missing")
    refused({**state, "features.9.bias": torch.zeros(1)}, r"unexpected weight 'features\.9\.bias'")
    refused({**state, "lin2.model.1.weight": torch.zeros(1, 2, 1, 1)}, r"'lin2\.model\.1\.weight' has shape \[1, 2")


def test_images_are_checked() -> None:
    with pytest.raises(ValueError, match="image: expected shape"):
        Lpips("alexnet")(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="at least 32x32"):
        Lpips("alexnet")(torch.rand(1, 16, 64, 3), torch.rand(1, 16, 64, 3))
