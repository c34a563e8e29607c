import sys
import types
from pathlib import Path

import pytest
import torch
from helpers.seeds import fresh_seed
from safetensors.torch import save_file
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.metrics.flow import flow_error, load_raft, orbit_flows


def brightness_step(images: Tensor, targets: Tensor) -> Tensor:
    """Estimate flow right by the change of the mean red, down by that of the mean blue."""
    change = (targets - images).mean(dim=(1, 2))[:, None, None, ::2]
    return change.expand(-1, *images.shape[1:3], -1)


def gradient_flow(images: Tensor, targets: Tensor) -> Tensor:
    """Estimate flow by Lucas & Kanade 1981 over the whole image: exact for moving ramps."""
    grey, change = images.mean(dim=-1), (targets - images).mean(dim=-1)
    down, right = torch.gradient(grey, dim=(1, 2))
    slopes = torch.stack([right, down], dim=-1).flatten(1, 2)
    moved = torch.linalg.lstsq(slopes, -change.flatten(1)[..., None]).solution[..., 0]
    return moved[:, None, None].expand(-1, *images.shape[1:3], -1)


def ramps(shifts: Tensor) -> Tensor:
    """Return paraboloids x^2 + 2 y^2 shifted by `shifts` [V, 2] pixels (right, down): [V, 16, 24, 3]."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    x, y = x - shifts[:, 0, None, None], y - shifts[:, 1, None, None]
    return ((x**2 + 2 * y**2) / 2000).double()[..., None].expand(-1, -1, -1, 3)


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_neighbours_form_a_circle(seed: int) -> None:
    views = torch.rand(6, 8, 10, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flows = orbit_flows(views, brightness_step)
    assert flows.shape == (2, 6, 8, 10, 2)
    for view in range(6):
        for direction, step in enumerate((1, -1)):
            expected = (views[(view + step) % 6] - views[view]).mean(dim=(0, 1))[[0, 2]]
            assert torch.allclose(flows[direction, view], expected.expand(8, 10, 2), atol=1e-12)


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_flow_error_equals_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views, truth = (torch.rand(5, 8, 8, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    error = 0.0
    for i in range(5):
        for j in ((i + 1) % 5, (i - 1) % 5):
            estimates = [brightness_step(v[i : i + 1], v[j : j + 1]) for v in (views, truth)]
            error += 0.5 * float((estimates[0] - estimates[1]).abs().mean())
    flows, true_flows = orbit_flows(views, brightness_step), orbit_flows(truth, brightness_step)
    assert flow_error(flows, true_flows) == pytest.approx(error / 5, rel=1e-9)
    assert flow_error(flows, flows) == 0


def test_moving_images() -> None:
    """Views off by (1, 0) pixels at one place: forward and backward flows are wrong, of 2 x 4 x 2 values."""
    true_shifts = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.1, 0.1], [0.0, 0.1]])
    shifts = true_shifts + torch.tensor([[0.0, 0.0], [0.2, 0.0], [0.2, 0.0], [0.2, 0.0]])
    flows, true_flows = (orbit_flows(ramps(s), gradient_flow) for s in (shifts, true_shifts))
    # The fit is linear; second-order errors of shifts of up to 0.3 pixels remain.
    assert torch.allclose(true_flows[0, 0, 0, 0], torch.tensor([0.1, 0.0]).double(), atol=0.01)
    assert torch.allclose(true_flows[1, 0, 0, 0], torch.tensor([0.0, 0.1]).double(), atol=0.01)
    # Wrong by 0.2 in x: 0 -> 1, 3 -> 0 and back, 4 of 8 flows, one of two components.
    assert flow_error(flows, true_flows) == pytest.approx(0.2 * 4 / 8 / 2, rel=0.1)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="views: expected shape"):
        orbit_flows(torch.rand(4, 3, 8, 8), brightness_step)
    with pytest.raises(ValueError, match="true_flows: expected shape"):
        flow_error(torch.rand(2, 4, 8, 8, 2), torch.rand(2, 5, 8, 8, 2))


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", None)
    with pytest.raises(InputError, match=r"E_flow needs torchvision.*pip install torchvision"):
        load_raft(str(tmp_path / "raft.pth"))


class StandInRaft(nn.Module):
    """torchvision's interface: images [B, 3, H, W] in [-1, 1] -> one [B, 2, H, W] flow for each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        step = torch.einsum("dc,bchw->bdhw", self.weight, image2 - image1 * image2)
        return [step * (i + 1) for i in range(num_flow_updates)]


def test_how_raft_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = types.ModuleType("torchvision.models.optical_flow")
    library.raft_large = StandInRaft  # type: ignore[attr-defined]
    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, library.__name__, library)
    weight = torch.randn(2, 3)
    save_file({"weight": weight}, tmp_path / "raft.safetensors")
    estimate = load_raft(str(tmp_path))
    images, targets = torch.rand(2, 2, 128, 136, 3)
    first, second = 2 * images - 1, 2 * targets - 1
    expected = 20 * (second - first * second) @ weight.T  # the last of 20 iterations
    assert torch.allclose(estimate(images, targets), expected, atol=1e-4)
    with pytest.raises(InputError, match=r"multiples of 8, at least 128 pixels, got 120x136"):
        estimate(images[:, :120], targets[:, :120])
    with pytest.raises(InputError, match=r"no such file.*raft_large_C_T_V1"):
        load_raft(str(tmp_path / "none.pth"))
    save_file({"other": weight}, tmp_path / "raft.safetensors")
    with pytest.raises(InputError, match="the weight 'weight' is missing"):
        load_raft(str(tmp_path))


def test_raft_of_torchvision(tmp_path: Path) -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", exc_type=Exception)
    torch.manual_seed(fresh_seed())
    network = optical_flow.raft_large().eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    images, targets = torch.rand(2, 2, 128, 136, 3)
    with torch.no_grad():
        first, second = (2 * i.permute(0, 3, 1, 2) - 1 for i in (images, targets))
        expected = network(first, second, num_flow_updates=20)[-1].permute(0, 2, 3, 1)
    # The same network in the same order of operations.
    assert torch.allclose(load_raft(str(tmp_path / "raft.pth"))(images, targets), expected, rtol=1e-4, atol=1e-4)
