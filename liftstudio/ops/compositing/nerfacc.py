"""Compositing with nerfacc >= 0.5 (CUDA only): its packed scans, followed by the sums of `reference`.

The sums use `index_add`, as nerfacc's own `accumulate_along_rays` does; on CUDA their last bits vary from run to run.
"""

import nerfacc
import torch
from torch import Tensor

from liftstudio.ops.compositing import Composite
from liftstudio.ops.compositing.reference import accumulate
from liftstudio.ops.marching import Samples


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool) -> Composite:
    """See the package's `composite`; float32, once differentiable."""
    starts, counts = samples.offsets[:-1], samples.offsets.diff()
    packed = torch.stack([starts, counts], dim=1)  # [R, 2]: first sample and number of samples of each ray
    weights, _, _ = nerfacc.render_weight_from_density(samples.t_start, samples.t_end, sigma, packed_info=packed)
    return accumulate(
        weights, values, samples, distortion, lambda x: nerfacc.exclusive_sum(x.contiguous(), packed_info=packed)
    )
