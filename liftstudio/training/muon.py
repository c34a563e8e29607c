"""Muon, in float32 and by small matrices: torch's own works in bfloat16, which many CPUs only emulate."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of one Newton-Schulz step: a x + b x^3 + c x^5
STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum whose every update has nearly equal singular values (Jordan et al. 2024, "Muon"), for matrices.

    Updates have the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4), so that its step
    sizes and weight decay suit. Nesterov's momentum, as in `torch.optim.Muon`.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all matrices that have a gradient; returns what `closure` does, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, matrix: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonalized(gradient.lerp(momentum, MOMENTUM))
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(direction, alpha=-0.2 * lr * max(matrix.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """`matrix` [m, n] with singular values of about 1 (0.7 to 1.2), by Newton-Schulz steps.

    A step multiplies by p(A), A = X X^T of the shorter side, and p(A) commutes with A: so all steps are taken on these
    small matrices, and the large one is multiplied once.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    gram = wide @ wide.mT
    total = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    for _ in range(STEPS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        total = factor @ total
        gram = factor @ gram @ factor
        gram = (gram + gram.mT) / 2  # rounding must not grow along what is not symmetric
    found = total @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.mT
