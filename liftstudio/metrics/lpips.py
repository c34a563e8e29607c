"""LPIPS, the learned perceptual distance of Zhang et al. 2018, with the published weights; needs no torchvision."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.weights import unreadable

Network = Literal["vgg16", "alexnet"]
Layer = tuple[str, int, int, int, int]  # kind, channels, kernel, stride, padding (the last three in pixels)


@dataclass(frozen=True)
class _Stack:
    """A torchvision backbone and the files with its weights."""

    layers: tuple[Layer, ...]  # torchvision's `features`
    taps: tuple[int, ...]  # indices of the layers whose outputs are compared, each a ReLU
    backbone: str
    heads: str


def _vgg16_layers() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [("conv", channels, 3, 1, 1), ("relu", channels, 0, 0, 0)] * convolutions
        layers += [("pool", channels, 2, 2, 0)]
    return tuple(layers[:-1])


_ALEXNET_LAYERS = (
    *(("conv", 64, 11, 4, 2), ("relu", 64, 0, 0, 0), ("pool", 64, 3, 2, 0)),
    *(("conv", 192, 5, 1, 2), ("relu", 192, 0, 0, 0), ("pool", 192, 3, 2, 0)),
    *(("conv", 384, 3, 1, 1), ("relu", 384, 0, 0, 0)),
    *(("conv", 256, 3, 1, 1), ("relu", 256, 0, 0, 0)),
    *(("conv", 256, 3, 1, 1), ("relu", 256, 0, 0, 0)),
)
_HEADS_SOURCE = "github.com/richzhang/PerceptualSimilarity, lpips/weights/v0.1"
_STACKS: dict[Network, _Stack] = {
    "vgg16": _Stack(
        _vgg16_layers(),
        (3, 8, 15, 22, 29),
        "torchvision's ImageNet weights of vgg16 (vgg16-397923af.pth)",
        f"the linear layers vgg.pth ({_HEADS_SOURCE})",
    ),
    "alexnet": _Stack(
        _ALEXNET_LAYERS,
        (1, 4, 7, 9, 11),
        "torchvision's ImageNet weights of alexnet (alexnet-owt-7be5be79.pth)",
        f"the linear layers alex.pth ({_HEADS_SOURCE})",
    ),
}
# ImageNet's channel means and standard deviations for images in [-1, 1], rounded as the published weights expect.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_SUFFIXES = (".pth", ".safetensors")
_MIN_SIDE = 32  # pixels; for smaller images a pooling stage of either network would be empty


class Lpips(nn.Module):
    """Perceptual distance between images: weighted squared differences of unit-length deep features (eq. 1).

    Parameters carry the names of the published files: `features.N.weight`, `features.N.bias` (torchvision) and
    `linK.model.1.weight` (lpips). They are frozen; gradients flow to the images.

    Args:
        network: "vgg16" (58 MB, smoother gradients, for optimisation) or "alexnet" (10 MB, for reporting).
    """

    def __init__(self, network: Network = "vgg16") -> None:
        super().__init__()
        stack = _STACKS[network]
        self.features = _backbone(stack)
        self.taps = stack.taps
        for index, tap in enumerate(stack.taps):
            head = nn.Conv2d(stack.layers[tap][1], 1, 1, bias=False)
            self.add_module(f"lin{index}", nn.ModuleDict({"model": nn.ModuleDict({"1": head})}))
        self.requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distances [B] >= 0; 0 for equal images.

        Args:
            image, target: [B, H, W, 3] float, sRGB in [0, 1], H and W at least 32.

        Raises:
            ValueError: for other or unequal shapes, or smaller images.
        """
        check_shape("image", image, ("B", "H", "W", 3))
        check_shape("target", target, image.shape)
        if min(image.shape[1:3]) < _MIN_SIDE:
            raise ValueError(f"lpips: expected at least {_MIN_SIDE}x{_MIN_SIDE} pixels, got {list(image.shape[1:3])}")
        features = zip(self._unit_features(image), self._unit_features(target), strict=True)
        distances = [
            F.conv2d((a - b).square(), self.get_parameter(f"lin{index}.model.1.weight")).mean(dim=(1, 2, 3))
            for index, (a, b) in enumerate(features)
        ]
        return torch.stack(distances).sum(dim=0)

    def activations(self, image: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Outputs [B, C, h, w] of the backbone's `layers` (ascending indices) for images [B, H, W, 3] in [0, 1]."""
        x = (2.0 * image - 1.0 - image.new_tensor(_SHIFT)) / image.new_tensor(_SCALE)
        x, found = x.permute(0, 3, 1, 2), []
        for index, layer in enumerate(itertools.islice(self.features, layers[-1] + 1)):
            x = layer(x)
            if index in layers:
                found.append(x)
        return found

    def _unit_features(self, image: Tensor) -> list[Tensor]:
        """The compared activations, each [B, C, h, w], of unit length over the channels (zero where all are zero)."""
        return [F.normalize(found, dim=1, eps=1e-10) for found in self.activations(image, self.taps)]


def load_lpips(path: str | Path, network: Network = "vgg16") -> Lpips:
    """LPIPS with the published weights, in eval mode on the CPU.

    Args:
        path: a folder with the two published files (every .pth and .safetensors in it is read), or one such file with
            the tensors of both. torchvision's `classifier.*` is ignored.
        network: the backbone.

    Raises:
        InputError: there is no such file, it is unreadable, or its keys or shapes are not those of `network`.
    """
    model, path = Lpips(network), Path(path)
    state: dict[str, Tensor] = {}
    for file in _weight_files(path, _STACKS[network]):
        state |= _read_state(file)
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    _check_state(state, model.state_dict(), path)
    model.load_state_dict(state)
    return model.eval()


def _backbone(stack: _Stack) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels_in = 3
    for kind, channels, kernel, stride, padding in stack.layers:
        if kind == "conv":
            layers.append(nn.Conv2d(channels_in, channels, kernel, stride, padding))
        else:
            layers.append(nn.ReLU() if kind == "relu" else nn.MaxPool2d(kernel, stride))
        channels_in = channels
    return nn.Sequential(*layers)


def _weight_files(path: Path, stack: _Stack) -> list[Path]:
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.suffix in _SUFFIXES)
    if not files:
        raise InputError(f"{path}: no LPIPS weights there; expected a folder with {stack.backbone} and {stack.heads}")
    return files


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # the two readers raise many unrelated types
        raise unreadable(path, error) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: expected a table of tensors, as in the published LPIPS weights")
    return dict(state)


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise an InputError, naming the first difference, unless `state` has exactly the `expected` keys and shapes."""
    for key in sorted(state.keys() | expected.keys()):
        if key not in state:
            raise InputError(f"{path}: the weight '{key}' is missing")
        if key not in expected:
            raise InputError(f"{path}: unexpected weight '{key}'")
        if state[key].shape != expected[key].shape:
            shapes = f"{list(state[key].shape)}, expected {list(expected[key].shape)}"
            raise InputError(f"{path}: the weight '{key}' has shape {shapes}")
