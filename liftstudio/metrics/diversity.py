"""How much generated views differ: HarmonyView's CD score of one object's views, and the diversity of its instances.

Both work on embeddings of the images (see `liftstudio.metrics.embeddings`).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape

Form = Literal["released", "paper"]

_LEAST_VARIANCE = 1e-9  # below it is only the rounding of float32 embeddings


def cd_terms(
    views: Tensor, meaning: Tensor, reference: Tensor | None = None, form: Form = "released"
) -> tuple[Tensor, Tensor]:
    """Diversity D [...] and semantic variance S [...], the two terms of the CD score (Woo et al. 2024, "HarmonyView").

    D: how far views are from the reference, 1 - cos each. S: the variance over the views of max(cos, 0) with the
    meaning; small where no view turns into something else. "released" is as the official `eval_CD_score.py` computes
    and the published tables show: D the sum over all V views, S the sample variance (V - 1) of 100 cos. "paper" is as
    defined there: D the mean, S the population variance of cos. For the same V the scores D / S are proportional:
    released = paper (V - 1) / 10^4.

    Args:
        views: [..., V, E] embeddings of the views of each instance, V at least 2; of any length.
        meaning: [..., 1, E] or [E], what all views should show: the embedding of the prompt "An image of <name>", or
            `centroid` where there is no name or no text encoder.
        reference: [..., 1, E]; default: view 0 of each instance, as in the official code.
    Returns:
        float64.
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

    A ratio of means, as the official statistics have it. `diversity`, `variance`: of `cd_terms`, of any equal shape.

    Raises:
        ValueError: for unequal shapes.
    """
    check_shape("variance", variance, diversity.shape)
    mean_variance = variance.mean().item()
    return diversity.mean().item() / mean_variance if mean_variance > _LEAST_VARIANCE else None


def centroid(views: Tensor) -> Tensor:
    """[..., 1, E] the mean direction of views [..., V, E]: a stand-in for the text, what the views have in common.

    With it, S of `cd_terms` is the variance of the views' likeness to their own mean: large where single views stand
    out. Such figures compare with one another, never with published ones.
    """
    return F.normalize(F.normalize(views.double(), dim=-1).mean(dim=-2, keepdim=True), dim=-1)


def instance_diversity(views: Tensor) -> float:
    """How much the instances of one object differ: 1 - cos of the same view, mean over views and pairs of instances.

    0 for equal instances. Sampling with more than one outcome shows here, not in the CD score, which sees only one
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
