"""The pretended device refuses what CUDA refuses, so that tests on it find tensors on the wrong device."""

import pytest
import torch
from helpers.pretended_cuda import pretended_cuda


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_cuda(monkeypatch) as device:
        there, here = torch.rand(3, 4, device=device), torch.rand(3, 4)
        assert there.is_cuda and not here.is_cuda and there.cpu().numpy().shape == (3, 4)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[torch.zeros_like(there).long()],
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=torch.Generator(), device=device)
        layer = torch.nn.Linear(4, 2)
        with pytest.raises(RuntimeError, match="same device"):
            layer(there)
        layer.to(device)(there).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.device == device
        assert (there * torch.tensor(2.0))[torch.tensor([0])].device == device, "numbers and indices may be on the CPU"
