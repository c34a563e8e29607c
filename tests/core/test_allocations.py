"""Allocations count what is alive, and what was alive at the peak."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from liftstudio.core.allocations import Allocations

MB = 1 << 20


def megabytes(count: int) -> torch.Tensor:
    return torch.zeros(count * MB // 4)


def test_views_and_freed_tensors_do_not_count() -> None:
    with Allocations() as counted:
        kept = megabytes(3)
        shown = kept[:10].view(2, 5)
        megabytes(5)
    assert (counted.live, counted.peak, counted.real) == (3 * MB, 8 * MB, 3 * MB)
    del kept
    assert counted.live == 3 * MB, "a view keeps the memory"
    del shown
    assert counted.live == 0


def test_the_graph_counts_until_the_backward_pass() -> None:
    with Allocations() as counted:
        leaf = megabytes(1).requires_grad_()
        loss = leaf.exp().sin().sum()
        assert counted.live // MB == 2, "leaf and exp; sin is needed by no gradient"
        loss.backward()
        assert counted.live // MB == 2 and leaf.grad is not None, "leaf and its gradient"
    del loss


def test_fake_tensors_count_as_if_they_were_real() -> None:
    with Allocations() as counted:
        fake = FakeTensorMode().from_tensor(torch.empty(0)).new_empty(2 << 40, dtype=torch.float16)
        half = fake[::2] * 2
    assert (counted.live, counted.real) == (3 * 2 << 40, 0) and half.shape == (1 << 40,)


def test_the_work_at_the_peak_is_named() -> None:
    with Allocations() as counted:
        megabytes(2)
        with counted.doing("decoding"):
            megabytes(4)
        assert counted.during == "decoding"
        counted.restart()
        assert counted.during == "" and counted.peak == 0
        assert counted.extra(lambda: len(megabytes(2) + 1)) == (2 * MB // 4, 4 * MB)
