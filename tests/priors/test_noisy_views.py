"""The query of a prior, and a part of it."""

import torch

from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors.base import NoisyViews


def test_a_part_of_the_views() -> None:
    cameras = orbit_cameras(torch.tensor([0.0, 90.0, 180.0]), torch.zeros(3), 3.6, 33.8, 8, 8)
    latents, scale = torch.arange(3.0)[:, None, None, None].expand(3, 4, 8, 8), torch.tensor([1.0, 2.0, 3.0])
    wanted = torch.tensor([True, False, True])[:, None, None].expand(3, 8, 8)
    noisy = NoisyViews(latents, 2.0, "a condition", cameras, scale, wanted)
    part = noisy[1:2]
    assert len(noisy) == 3 and len(part) == 1 and part.sigma == 2.0 and part.condition == "a condition"
    assert torch.equal(part.latents, latents[1:2]) and part.cameras.azimuth_deg.tolist() == [90.0]
    assert part.guidance_scale is not None and part.guidance_scale.tolist() == [2.0]
    assert part.wanted is not None and not part.wanted.any()
    plain = NoisyViews(latents, 2.0, None, cameras)[:2]
    assert len(plain) == 2 and plain.guidance_scale is None and plain.wanted is None
