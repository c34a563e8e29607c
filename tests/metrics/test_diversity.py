import math
import statistics

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.metrics.diversity import cd_score, cd_terms, centroid, instance_diversity


def random_views(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_terms_equal_a_loop(seed: int) -> None:
    views, text = random_views(seed, 3, 8, 20), random_views(seed + 1, 20)
    diversity, variance = cd_terms(views, text)
    paper_diversity, paper_variance = cd_terms(views, text, form="paper")
    for instance in range(3):
        distances = [1 - cosine(views[instance, 0], view) for view in views[instance]]
        similarities = [max(cosine(text, view), 0.0) for view in views[instance]]
        assert diversity[instance].item() == pytest.approx(sum(distances), abs=1e-9)
        assert variance[instance].item() == pytest.approx(statistics.variance([100 * s for s in similarities]), 1e-9)
        assert paper_diversity[instance].item() == pytest.approx(statistics.mean(distances), abs=1e-9)
        assert paper_variance[instance].item() == pytest.approx(statistics.pvariance(similarities), 1e-9)
    released, paper = cd_score(diversity, variance), cd_score(paper_diversity, paper_variance)
    assert released == pytest.approx(paper * (8 - 1) / 1e4, rel=1e-9)
    assert released == pytest.approx(float(diversity.sum() / variance.sum()), rel=1e-9)


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_reference_and_lengths(seed: int) -> None:
    views, text = random_views(seed, 2, 5, 12), random_views(seed + 1, 12)
    expected = cd_terms(views, text)
    assert torch.allclose(cd_terms(3 * views, 0.1 * text)[1], expected[1], rtol=1e-6)  # float32 rounding of the inputs
    assert torch.equal(cd_terms(views, text, reference=views[:, :1])[0], expected[0])
    away = cd_terms(views, text, reference=-views[:, :1])[0]
    assert torch.allclose(away, 2 * 5 - expected[0], atol=1e-9)


def test_equal_views_have_no_score() -> None:
    views = torch.randn(10).expand(2, 16, 10)
    diversity, variance = cd_terms(views, torch.randn(10))
    assert diversity.abs().max() < 1e-12
    assert cd_score(diversity, variance) is None


def test_centroid() -> None:
    views = torch.tensor([[[2.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [1.0, 0.0]]])
    expected = torch.tensor([[[math.sqrt(0.5)] * 2], [[1.0, 0.0]]], dtype=torch.float64)
    assert torch.allclose(centroid(views), expected, atol=1e-12)
    # One view that stands out makes the variance, views that all differ alike make none.
    alike = torch.eye(4)[None]
    odd = torch.tensor([[1.0, 0, 0, 0]] * 3 + [[0.0, 1, 0, 0]])[None]
    variances = [cd_terms(views, centroid(views))[1].item() for views in (alike, odd)]
    assert variances[0] == pytest.approx(0, abs=1e-9) and variances[1] > 100


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_instance_diversity(seed: int) -> None:
    views = random_views(seed, 3, 4, 10)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = statistics.mean(1 - cosine(views[a, v], views[b, v]) for a, b in pairs for v in range(4))
    assert instance_diversity(views) == pytest.approx(expected, abs=1e-9)
    assert instance_diversity(views[:1].expand(3, -1, -1)) == pytest.approx(0, abs=1e-12)


def test_wrong_shapes() -> None:
    views = torch.rand(2, 4, 8)
    with pytest.raises(ValueError, match="at least 2 views, got 1"):
        cd_terms(views[:, :1], torch.rand(8))
    with pytest.raises(ValueError, match="meaning: expected shape"):
        cd_terms(views, torch.rand(7))
    with pytest.raises(ValueError, match="variance: expected shape"):
        cd_score(torch.rand(2), torch.rand(3))
    with pytest.raises(ValueError, match="at least 2 instances"):
        instance_diversity(views[:1])
