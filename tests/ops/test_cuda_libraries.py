"""The adapters to optional CUDA libraries call these as they are written, and turn their conventions into ours.

nerfacc is installed for its signatures; its scans need a GPU. nvdiffrast and tiny-cuda-nn cannot be installed without
one: modules with the signatures and conventions of their sources (nvdiffrast 0.3.3, tiny-cuda-nn 1.7) stand in.
"""

import contextlib
import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from liftstudio.ops.compositing import reference as compositing
from liftstudio.ops.hash_grid import reference as hash_grid
from liftstudio.ops.hash_grid.spec import HashGridSpec
from liftstudio.ops.marching import Samples
from liftstudio.ops.rasterization import reference as rasterization


def adapter(op: str, library: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the adapter, imported anew, as only this test sees the stand-in."""
    name = f"liftstudio.ops.{op}.{library}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


class RasterizeCudaContext:
    def __init__(self, device: object = None) -> None:
        self.device = device


def rasterize_bottom_up(
    glctx: RasterizeCudaContext,
    pos: Tensor,
    tri: Tensor,
    resolution: tuple[int, int],
    ranges: Tensor | None = None,
    grad_db: bool = True,
) -> tuple[Tensor, Tensor]:
    """nvdiffrast's: the last of four channels is the face plus one as a float, and row 0 is at the bottom."""
    assert isinstance(glctx, RasterizeCudaContext) and grad_db in (True, False) and ranges is None
    assert pos.dtype == torch.float32 and pos.dim() == 3 and pos.is_contiguous()
    assert tri.dtype == torch.int32 and tri.is_contiguous()
    faces = rasterization.rasterize(pos, tri.long(), *resolution)
    output = torch.zeros(*faces.shape, 4)
    output[..., 3] = faces.flip(1) + 1
    return output, torch.zeros(*faces.shape, 0)


def test_nvdiffrast(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("nvdiffrast"), ModuleType("nvdiffrast.torch")
    module.RasterizeCudaContext, module.rasterize = RasterizeCudaContext, rasterize_bottom_up  # type: ignore[attr-defined]
    package.torch = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    clip = torch.cat([torch.rand(2, 12, 3) * 2 - 1, torch.ones(2, 12, 1)], dim=-1)
    faces = torch.randint(12, (9, 3))
    found = adapter("rasterization", "nvdiffrast", monkeypatch).rasterize(clip, faces, 24, 17)
    assert found.dtype == torch.int32 and torch.equal(found, rasterization.rasterize(clip, faces, 24, 17).int())


class Encoding(nn.Module):
    """tiny-cuda-nn's: parameters in one vector, level after level, coarsest first."""

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        assert encoding_config["otype"] == "HashGrid" and encoding_config["interpolation"] == "Linear"
        levels, coarsest = encoding_config["n_levels"], encoding_config["base_resolution"]
        finest = round(coarsest * encoding_config["per_level_scale"] ** (levels - 1))
        features, size = encoding_config["n_features_per_level"], encoding_config["log2_hashmap_size"]
        self.spec = HashGridSpec(levels, features, size, coarsest, finest)
        self.params = nn.Parameter(torch.zeros(self.spec.entries * features))

    def forward(self, x: Tensor) -> Tensor:
        return hash_grid.hash_encode(x, self.params.view(self.spec.entries, self.spec.features), self.spec)


def test_tinycudann(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("tinycudann")
    package.Encoding = Encoding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", package)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    spec = HashGridSpec(levels=4, features=2, log2_table_size=9, base_resolution=4, finest_resolution=32)
    points, table = torch.rand(50, 3), torch.randn(spec.entries, 2, requires_grad=True)
    found = adapter("hash_grid", "tinycudann", monkeypatch).hash_encode(points, table, spec)
    torch.testing.assert_close(found, hash_grid.hash_encode(points, table, spec))
    (gradient,) = torch.autograd.grad(found.square().sum(), table)
    assert gradient.shape == table.shape and gradient.abs().max() > 0


def test_nerfacc(monkeypatch: pytest.MonkeyPatch) -> None:
    nerfacc = pytest.importorskip("nerfacc")
    offsets = torch.tensor([0, 3, 3, 8])
    start = torch.rand(8).sort().values
    samples = Samples(torch.repeat_interleave(torch.arange(3), offsets.diff()), start, start + 0.05, offsets)
    real = {name: inspect.signature(getattr(nerfacc, name)) for name in ("render_weight_from_density", "exclusive_sum")}

    def ray_of(packed_info: Tensor) -> list[slice]:
        assert packed_info.shape == (3, 2)
        return [slice(int(first), int(first + count)) for first, count in packed_info]

    def exclusive_sum(*arguments: Any, **named: Any) -> Tensor:
        values, packed = real["exclusive_sum"].bind(*arguments, **named).arguments.values()
        return torch.cat([values[ray].cumsum(0) - values[ray] for ray in ray_of(packed)])

    def weights(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
        given = real["render_weight_from_density"].bind(*arguments, **named).arguments
        assert list(given) == ["t_starts", "t_ends", "sigmas", "packed_info"]
        depth = given["sigmas"] * (given["t_ends"] - given["t_starts"])
        alpha = 1 - torch.exp(-depth)
        transmittance = torch.exp(-exclusive_sum(depth, packed_info=given["packed_info"]))
        return alpha * transmittance, transmittance, alpha

    monkeypatch.setattr(nerfacc, "exclusive_sum", exclusive_sum)
    monkeypatch.setattr(nerfacc, "render_weight_from_density", weights)
    sigma, values = 20 * torch.rand(8), torch.rand(8, 3)
    found = adapter("compositing", "nerfacc", monkeypatch).composite(sigma, values, samples, True)
    wanted = compositing.composite(sigma, values, samples, True)
    for name in ("weights", "opacity", "values", "depth", "distortion"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
