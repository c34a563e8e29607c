"""Hash-grid encoding by tiny-cuda-nn's PyTorch bindings (CUDA, float32).

The bindings can differentiate the gradient w.r.t. the points again, w.r.t. the table, the incoming gradient and the
points: all that analytic normals need.
"""

import functools

import tinycudann
import torch
from torch import Tensor

from liftstudio.ops.hash_grid.spec import HashGridSpec

FEATURES = (1, 2, 4, 8)  # features per level that tiny-cuda-nn is compiled for


def hash_encode(points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """See `liftstudio.ops.hash_grid.hash_encode`; the table replaces the encoding's own parameters."""
    encoding = _encoding(spec, points.device)
    output: Tensor = torch.func.functional_call(encoding, {"params": table.flatten()}, (points,))
    return output


@functools.cache
def _encoding(spec: HashGridSpec, device: torch.device) -> torch.nn.Module:
    config = {
        "otype": "HashGrid",
        "n_levels": spec.levels,
        "n_features_per_level": spec.features,
        "log2_hashmap_size": spec.log2_table_size,
        "base_resolution": spec.base_resolution,
        "per_level_scale": spec.per_level_scale,
        "interpolation": "Linear",
    }
    with torch.cuda.device(device):
        encoding: torch.nn.Module = tinycudann.Encoding(3, config, dtype=torch.float32)
    allocated = sum(parameter.numel() for parameter in encoding.parameters())
    if allocated != spec.entries * spec.features:
        raise RuntimeError(f"tinycudann: expected {spec.entries * spec.features} parameters, got {allocated}")
    return encoding
