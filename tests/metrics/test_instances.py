import statistics

import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.metrics.instances import summarize_instances


def test_equals_a_loop_over_objects() -> None:
    values = torch.rand(5, 4, generator=torch.Generator().manual_seed(fresh_seed()))
    rows = values.double().tolist()
    summary = summarize_instances(values, higher_is_better=True)
    assert summary.best == pytest.approx(statistics.mean(max(row) for row in rows), rel=1e-9)
    assert summary.average == pytest.approx(statistics.mean(statistics.mean(row) for row in rows), rel=1e-9)
    assert summary.worst == pytest.approx(statistics.mean(min(row) for row in rows), rel=1e-9)
    assert summary.variance == pytest.approx(statistics.mean(statistics.pvariance(row) for row in rows), rel=1e-9)
    turned = summarize_instances(values, higher_is_better=False)
    assert (turned.best, turned.worst) == (summary.worst, summary.best)
    assert (turned.average, turned.variance) == (summary.average, summary.variance)


def test_one_instance_does_not_scatter() -> None:
    summary = summarize_instances(torch.tensor([[2.0], [4.0]]), higher_is_better=True)
    assert summary.best == summary.average == summary.worst == 3
    assert summary.variance == 0


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"values: expected shape \[O, S\]"):
        summarize_instances(torch.rand(3), higher_is_better=True)
    with pytest.raises(ValueError, match="at least one object and one instance"):
        summarize_instances(torch.rand(3, 0), higher_is_better=True)
