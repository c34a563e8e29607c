"""The depth channel: its direction, its range, and views that are rejected."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.methods.hifi123.depth import FlatDepthError, NotInSightError, depth_channel, mask_channel

SEED = fresh_seed(__name__)
SIZE = (16, 16)


def channel(values: Tensor, masks: Tensor, size: tuple[int, int] = SIZE, meaning: Any = "distance") -> Tensor:
    return depth_channel(values, masks, size, meaning)


def ball(views: int = 2, pixels: int = 64, far: float = 5.0) -> tuple[Tensor, Tensor]:
    """Return the distance [V, H, W, 1] of a ball in front of a camera, 0 on the background, and its mask."""
    line = torch.linspace(-1, 1, pixels)
    square = 0.7**2 - (line[:, None] ** 2 + line**2)
    mask = (square > 0).float()
    distance = (far - square.clamp_min(0).sqrt()) * mask
    return tuple(image[None, ..., None].repeat(views, 1, 1, 1) for image in (distance, mask))


def test_render() -> None:
    """Near is 1, far and background are -1; in between it is linear in inverse distance."""
    distance, mask = ball()
    found = channel(distance, mask, (64, 64))
    assert found.shape == (2, 1, 64, 64) and found.dtype == torch.float32
    inside = mask.permute(0, 3, 1, 2) > 0
    inverse = 1 / distance.permute(0, 3, 1, 2)[inside]
    expected = 2 * (inverse - inverse.min()) / (inverse.max() - inverse.min()) - 1
    torch.testing.assert_close(found[inside], expected, rtol=0, atol=1e-5)
    assert (found[~inside] == -1).all() and found.max() == 1
    small = channel(distance, mask)
    assert small.shape == (2, 1, *SIZE) and small.amax() == 1 and small.amin() == -1  # bicubic resizing overshoots
    assert small[0, 0, 7:9, 7:9].min() > 0.9 and (small[..., 0, :] == -1).all()


def test_meanings() -> None:
    """Outputs of different meanings give the same channel; scale and offset do not matter."""
    distance, mask = ball()
    disparity = 1 / distance.clamp_min(1)
    expected = channel(distance, mask)
    generator = torch.Generator().manual_seed(SEED)
    scale = 0.5 + 10 * torch.rand(2, 1, 1, 1, generator=generator)
    offset = torch.rand(2, 1, 1, 1, generator=generator)
    for found in (
        channel(disparity, mask, meaning="disparity"),
        channel(scale * disparity - offset, mask, meaning="disparity"),
        channel(1 - disparity, mask, meaning="depth"),
        channel(scale * distance, mask),
        channel(distance.where(mask > 0, 0.1), mask),  # the background has no effect
        channel(disparity.where(mask > 0, torch.nan), mask, meaning="disparity"),
    ):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-4, msg=f"seed {SEED}"
        )  # float32: 2e-5 with the offset
    opposite = channel(disparity, mask, meaning="depth")
    assert opposite[0, 0, 8, 8] < -0.9 < 0.5 < opposite.amax()


def test_as_in_training() -> None:
    """A whole image is resized bicubically, clamped to its range, then scaled to [-1, 1] by its extremes."""
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.rand(2, 1, 6, 6, generator=generator)
    values = F.interpolate(coarse, (48, 48), mode="bilinear")
    found = channel(values.permute(0, 2, 3, 1), torch.ones(2, 48, 48, 1), meaning="disparity")
    resized = F.interpolate(values, SIZE, mode="bicubic").maximum(values.amin((1, 2, 3), keepdim=True))
    low, high = (end(resized, (1, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    expected = 2 * (resized - low) / (high - low) - 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=f"seed {SEED}")
    assert (found.amax((1, 2, 3)) == 1).all() and (found.amin((1, 2, 3)) == -1).all()


def test_masks_of_another_size() -> None:
    distance, mask = ball()
    fine = F.interpolate(mask.permute(0, 3, 1, 2), scale_factor=4.0).permute(0, 2, 3, 1)
    torch.testing.assert_close(channel(distance, fine), channel(distance, mask), rtol=0, atol=1e-6)


def test_views_are_independent() -> None:
    near, far = ball(1, far=3.0), ball(1, far=9.0)
    both = channel(*(torch.cat(pair) for pair in zip(near, far, strict=True)))
    torch.testing.assert_close(both, torch.cat([channel(*near), channel(*far)]), rtol=0, atol=0)


def test_mask_alone() -> None:
    _, mask = ball()
    found = mask_channel(mask, SIZE)
    assert found.shape == (2, 1, *SIZE) and found.dtype == torch.float32
    assert found[0, 0, 8, 8] == 1 and found[0, 0, 0, 0] == -1 and set(found.unique().tolist()) == {-1.0, 1.0}
    share = (found > 0).float().mean() - mask.mean()
    assert abs(share) < 0.05


def faulty(kind: str) -> tuple[Tensor, Tensor]:
    distance, mask = ball()
    if kind == "empty mask":
        mask[1] = 0
    elif kind == "nothing rendered":
        distance[1] = 0
    elif kind == "flat":
        distance[1] = 4.0
    elif kind == "flat but for rounding":
        distance[1] = 4 + 1e-6 * torch.rand(64, 64, 1)
    elif kind == "not a number":
        distance[1, 32, 32] = torch.nan
    elif kind == "infinite":
        distance[1, 32, 32] = torch.inf
    else:  # the object is less than a pixel of the latents
        mask[1], mask[1, 32, 32] = 0, 1
        distance[1] = 4.0
    return distance, mask


FAULTS = {
    "empty mask": "depth of view 1: no object in view; check its mask",
    "nothing rendered": "depth of view 1: no object in view; check its mask",
    "flat": "depth of view 1: flat, so it says nothing about the shape; use the mask alone",
    "flat but for rounding": "depth of view 1: flat, so it says nothing about the shape; use the mask alone",
    "not a number": "depth of view 1: not finite everywhere on the object",
    "infinite": "depth of view 1: not finite everywhere on the object",
    "one pixel": "depth of view 1: flat, so it says nothing about the shape; use the mask alone",
}


@pytest.mark.parametrize(("kind", "message"), FAULTS.items(), ids=FAULTS)
def test_faults(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        channel(*faulty(kind))
    assert "\n" not in str(error.value)


def test_a_flat_view_by_its_mask() -> None:
    """Other views keep their depth, however thin they are; a flat one that is too thin is not in view."""
    distance, mask = ball(3)
    mask[0], mask[0, 20:40, 33] = 0, 1  # a line: less than half a pixel of the latents across
    distance[0] = distance[0] * mask[0]
    distance[1] = 4.0
    found = depth_channel(distance, mask, SIZE, "distance", flat_by_mask=True)
    assert set(found[1].unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(found[1:2], mask_channel(mask[1:2], SIZE), rtol=0, atol=0)
    torch.testing.assert_close(found[::2], channel(distance[::2], mask[::2]), rtol=0, atol=0)
    distance[0] = 4.0
    with pytest.raises(NotInSightError, match="depth of view 0: no object in view"):
        depth_channel(distance, mask, SIZE, "distance", flat_by_mask=True)
    with pytest.raises(FlatDepthError, match="depth of view 0: flat"):
        depth_channel(distance, mask, SIZE, "distance")


def test_empty_masks_alone() -> None:
    with pytest.raises(InputError, match="depth of view 0: no object in view; check its mask"):
        mask_channel(torch.zeros(1, 32, 32, 1), SIZE)
    with pytest.raises(ValueError, match="masks: expected shape"):
        mask_channel(torch.zeros(32, 32, 1), SIZE)
