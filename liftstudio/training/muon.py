"""Muon in float32, iterating on small Gram matrices: torch's own uses bfloat16, which many CPUs only emulate."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of one Newton-Schulz step: a x + b x^3 + c x^5
STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for matrices (Jordan et al. 2024, "Muon").

    Updates are scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4), so that
    AdamW's learning rates and weight decay carry over. Nesterov momentum, as in `torch.optim.Muon`.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all matrices that have a gradient; return the value of `closure`, if given."""
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
    """Return `matrix` [m, n] with its singular values moved to about 1 (0.7 to 1.2), by Newton-Schulz iteration.

    A step multiplies X by a polynomial p(A) of the Gram matrix A = X X^T of the shorter side. Since p(A) commutes with
    A, all steps run on these small matrices, and X is multiplied only once.
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
        gram = (gram + gram.mT) / 2  # keeps rounding errors from growing in the antisymmetric part
    found = total @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.mT
