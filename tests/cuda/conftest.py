"""The device that tests of CUDA compute on."""

from collections.abc import Iterator

import pytest
import torch
from helpers.devices import DEVICE
from helpers.pretended_cuda import pretended_cuda


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The CUDA device, with convolutions in full float32, so that tolerances can be narrow."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return DEVICE


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.cuda), "pretended"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The CUDA device, and a pretended one, on which any machine finds tensors that are on the wrong device."""
    if request.param == "cuda":
        yield request.getfixturevalue("cuda")
    else:
        with pretended_cuda(monkeypatch) as pretended:
            yield pretended
