"""Summary of a metric over several generated instances of each object: best, average, worst and variance."""

from dataclasses import dataclass

from torch import Tensor

from liftstudio.core.checks import check_shape


@dataclass(frozen=True)
class InstanceSummary:
    """Statistics over the instances of an object, averaged over the objects, in the unit of the metric.

    best, worst: by the direction of the metric.
    variance:    population variance, in that unit squared.
    """

    best: float
    average: float
    worst: float
    variance: float


def summarize_instances(values: Tensor, *, higher_is_better: bool) -> InstanceSummary:
    """Best, average, worst and variance over instances as in Woo et al. 2024 ("HarmonyView"), Table 6.

    As in the official statistics, the best instance is chosen for each metric by that metric itself, which requires
    the ground truth.

    Args:
        values: [O, S] float, a metric of S instances of each of O objects.
        higher_is_better: True for PSNR, SSIM, IoU; False for LPIPS, E_flow, Chamfer distance.

    Raises:
        ValueError: for a wrong or empty shape.
    """
    check_shape("values", values, ("O", "S"))
    if values.numel() == 0:
        raise ValueError(f"values: expected at least one object and one instance, got {list(values.shape)}")
    values = values.double()
    highest, lowest = values.amax(dim=1).mean().item(), values.amin(dim=1).mean().item()
    best, worst = (highest, lowest) if higher_is_better else (lowest, highest)
    return InstanceSummary(best, values.mean().item(), worst, values.var(dim=1, correction=0).mean().item())
