"""Diversity of generated views: HarmonyView's CD score of an object's views, and the diversity of its instances.

Both are computed from embeddings of the images (see `liftstudio.metrics.embeddings`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape

Form = Literal["released", "paper"]

_MIN_VARIANCE = 1e-9  # smaller variances are only rounding of float32 embeddings


def cd_terms(
    views: Tensor, meaning: Tensor, reference: Tensor | None = None, form: Form = "released"
) -> tuple[Tensor, Tensor]:
    """Diversity D [...] and semantic variance S [...], the two terms of the CD score (Woo et al. 2024, "HarmonyView").

    D: distance 1 - cos of the views from the reference. S: variance over the views of max(cos, 0) with the meaning;
    small if no view shows something else. "released" is what the official `eval_CD_score.py` computes and the
    published tables show: D is the sum over all V views, S the sample variance (V - 1) of 100 cos. "paper" is the
    paper's definition: D is the mean, S the population variance of cos. For equal V the scores D / S are
    proportional: released = paper (V - 1) / 10^4.

    Args:
        views: [..., V, E] embeddings of the views of each instance, of any norm; V at least 2.
        meaning: [..., 1, E] or [E], what all views should show: the embedding of the prompt "An image of <name>", or
            `centroid` if there is no name or no text encoder.
        reference: [..., 1, E]; default: view 0 of each instance, as in the official code.
        form: "released" or "paper".

    Returns:
        D and S, float64.

    Raises:
        ValueError: for a wrong shape.
    """
    check_shape("views", views, ("...", "V", "E"))
    if views.shape[-2] < 2:
        raise ValueError(f"cd_terms: expected at least 2 views, got {views.shape[-2]}")
    for name, other in (("meaning", meaning), ("reference", reference)):
        if other is not None:
            check_shape(name, other, ("...", views.shape[-1]))
    views = views.double()
    distances = 1 - F.cosine_similarity(views[..., :1, :] if reference is None else reference.double(), views, dim=-1)
    similarities = F.cosine_similarity(meaning.double(), views, dim=-1).clamp_min(0)
    if form == "released":
        return distances.sum(dim=-1), (100 * similarities).var(dim=-1)
    return distances.mean(dim=-1), similarities.var(dim=-1, correction=0)


def cd_score(diversity: Tensor, variance: Tensor) -> float | None:
    """Mean D over mean S, both over all instances of all objects, higher is better; None if the views do not vary.

    The ratio of means is that of the official statistics. `diversity`, `variance`: from `cd_terms`, of equal shape.

    Raises:
        ValueError: for unequal shapes.
    """
    check_shape("variance", variance, diversity.shape)
    mean_variance = variance.mean().item()
    return diversity.mean().item() / mean_variance if mean_variance > _MIN_VARIANCE else None


def centroid(views: Tensor) -> Tensor:
    """Mean direction [..., 1, E] of views [..., V, E]: what the views have in common, as a stand-in for a text.

    S of `cd_terms` is then the variance of the views' similarity to their own mean, large if single views stand out.
    The values can be compared with each other, but not with published ones.
    """
    return F.normalize(F.normalize(views.double(), dim=-1).mean(dim=-2, keepdim=True), dim=-1)


def instance_diversity(views: Tensor) -> float:
    """Difference between instances of an object: mean of 1 - cos of equal views, over views and pairs of instances.

    It is 0 for equal instances. It measures the diversity of sampling, which the CD score cannot, as that takes one
    instance at a time.

    Args:
        views: [S, V, E] embeddings of S >= 2 instances with the same cameras.

    Raises:
        ValueError: for a wrong shape or a single instance.
    """
    check_shape("views", views, ("S", "V", "E"))
    if len(views) < 2:
        raise ValueError("instance_diversity: expected at least 2 instances, got 1")
    first, second = torch.triu_indices(len(views), len(views), offset=1)
    return float((1 - F.cosine_similarity(views[first].double(), views[second].double(), dim=-1)).mean())
