"""E_flow, the consistency of an orbit of views: the optical flow between neighbours against that of the true views."""

from collections.abc import Callable

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.weights import load_module, open_weights, unloaded

# First and second images [B, H, W, 3] (sRGB in [0, 1]) -> flow [B, H, W, 2] float, pixels (right, down): what is at p
# in the first image is at p + flow(p) in the second.
FlowEstimator = Callable[[Tensor, Tensor], Tensor]

RAFT_PUBLISHED = (
    "RAFT is published as raft_large_C_T_V1-22a6c225.pth at https://download.pytorch.org/models (BSD-3-Clause), "
    "torchvision's port of raft-things.pth"
)
_RAFT_ITERATIONS = 20  # as the official evaluation runs it
_RAFT_MIN_SIDE = 128  # pixels; for smaller images the coarsest correlations would be empty
_BATCH = 4  # image pairs estimated together


def orbit_flows(views: Tensor, estimate: FlowEstimator) -> Tensor:
    """Flow [2, V, H, W, 2] in pixels from each view to the next and to the previous one; the views form a circle.

    Args:
        views: [V, H, W, 3] float, sRGB in [0, 1], composited over white, in the order of their azimuths.
        estimate: the flow estimator.

    Raises:
        ValueError: for another shape, or images that the estimator cannot take.
    """
    check_shape("views", views, ("V", "H", "W", 3))
    directions = []
    for step in (-1, 1):
        pairs = zip(views.split(_BATCH), views.roll(step, dims=0).split(_BATCH), strict=True)
        directions.append(torch.cat([estimate(view, neighbour) for view, neighbour in pairs]))
    return torch.stack(directions)


def flow_error(flows: Tensor, true_flows: Tensor) -> float:
    """E_flow in pixels, lower is better: mean absolute difference over pixels, components, directions and views.

    Woo et al. 2024, "HarmonyView"; as in the official `eval_consistency.py`.

    Args:
        flows, true_flows: [2, V, H, W, 2] from `orbit_flows`, by the same estimator. The true ones can be reused for
            all instances of an object.

    Raises:
        ValueError: for other or unequal shapes.
    """
    check_shape("flows", flows, (2, "V", "H", "W", 2))
    check_shape("true_flows", true_flows, flows.shape)
    return (flows - true_flows).abs().mean(dtype=torch.float64).item()


def load_raft(weights: str, device: torch.device | str = "cpu") -> FlowEstimator:
    """RAFT (Teed & Deng 2020) as in the official evaluation: torchvision's `raft_large`, 20 iterations.

    The estimator raises InputError for images whose sides are not multiples of 8 of at least 128 pixels.

    Args:
        weights: the published file, or a folder with it.
        device: device of the network; flows are returned on the device of the images.

    Raises:
        InputError: torchvision is missing or does not fit the installed torch; the weights are missing or not RAFT's.
    """
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:  # RuntimeError: its compiled operators are for a different torch
        raise InputError(
            f"E_flow needs torchvision, in the release for torch {torch.__version__}: pip install torchvision ({error})"
        ) from error
    opened = open_weights(weights, RAFT_PUBLISHED)
    with unloaded():
        network = raft_large()
    load_module(network, opened, {}, torch.float32, torch.device(device))

    @torch.no_grad()
    def estimate(images: Tensor, targets: Tensor) -> Tensor:
        check_raft_size(*images.shape[1:3])
        first, second = (2 * i.to(device, torch.float32).permute(0, 3, 1, 2) - 1 for i in (images, targets))
        return network(first, second, num_flow_updates=_RAFT_ITERATIONS)[-1].permute(0, 2, 3, 1).to(images.device)

    return estimate


def check_raft_size(height: int, width: int) -> None:
    """Raise an InputError if RAFT does not support images of this size."""
    if min(height, width) < _RAFT_MIN_SIDE or height % 8 or width % 8:
        expected = f"expected images whose sides are multiples of 8, at least {_RAFT_MIN_SIDE} pixels"
        raise InputError(f"RAFT: {expected}, got {height}x{width}")
