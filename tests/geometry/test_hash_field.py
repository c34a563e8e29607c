"""Hash-grid fields: inactive levels are not encoded, which does not change the result."""

import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.geometry.hash_field import HashField, HashFieldConfig

SEED = fresh_seed(__name__)


@pytest.mark.parametrize("count", [0.0, 0.3, 1.0, 2.5, 4.0, 9.0])
def test_fewer_levels(count: float) -> None:
    """Values and gradients equal those of all levels with weight 0 for the inactive ones."""
    generator = torch.Generator().manual_seed(SEED)
    config = HashFieldConfig(levels=4, log2_table_size=8, finest_resolution=40, precision="float32")
    field = HashField(config, 3, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    field.reset(generator)
    with torch.no_grad():
        field.table.normal_(generator=generator)
    points = 2 * torch.rand(100, 3, generator=generator) - 1
    found = []
    for used in (None, field.spec):
        field.use_levels(count)
        field.used = used or field.used
        points.requires_grad_()
        values = field(points)
        found.append([values, *torch.autograd.grad(values.square().sum(), [points, *field.parameters()])])
    for left_out, weighted in zip(*found, strict=True):
        torch.testing.assert_close(left_out, weighted, rtol=1e-6, atol=1e-6, msg=f"seed {SEED}")
    assert field.table.shape == (field.spec.entries, 2)
