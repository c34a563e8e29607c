from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from captures import CENTER, RADIUS, shoot
from helpers.seeds import fresh_seed

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras
from liftstudio.views.normalization import HALF_SIDE, object_box, object_similarity, upright_rotation


def captured(count: int = 24, size: int = 96) -> tuple[Cameras, torch.Tensor]:
    shots = shoot(count, size, size)
    focal = shots.cameras.fx * 2.5
    cameras = Cameras(shots.cameras.c2w, focal, focal, focal * 0 + size / 2, focal * 0 + size / 2 - 3.0, size, size)
    return cameras, silhouettes(cameras)


def silhouettes(cameras: Cameras) -> torch.Tensor:
    origins, directions = cameras.rays()
    along = ((CENTER - origins) * directions).sum(-1, keepdim=True)
    return ((origins + along * directions - CENTER).norm(dim=-1, keepdim=True) < RADIUS).float()


def test_the_box_holds_the_object_and_little_else() -> None:
    cameras, masks = captured()
    lower, upper = object_box(cameras, masks)
    # A pixel is 0.025 wide at the object: edges may be that far outside, and 24 tangent planes leave corners.
    for side, wanted in ((lower, CENTER - RADIUS), (upper, CENTER + RADIUS)):
        assert (side - wanted).abs().max() < 0.04
    assert bool((lower < CENTER - RADIUS + 0.013).all()) and bool((upper > CENTER + RADIUS - 0.013).all())


def test_similarity_brings_the_object_to_the_origin() -> None:
    similarity = object_similarity(*captured())
    center = similarity[:3, :3] @ CENTER.double() + similarity[:3, 3]
    assert center.abs().max() < 0.05
    assert abs(float(similarity[0, 0]) * RADIUS - HALF_SIDE) < 0.06


def test_views_that_cut_the_object_bound_nothing() -> None:
    cameras, masks = captured()
    wanted = object_box(cameras[1:], masks[1:])
    shifted = Cameras(
        cameras.c2w, cameras.fx, cameras.fy, cameras.cx.clone(), cameras.cy, cameras.height, cameras.width
    )
    shifted.cx[0] -= cameras.width / 2
    cut = silhouettes(shifted)
    assert cut[0, :, 0].any()
    for box, side in zip(object_box(shifted, cut), wanted, strict=True):
        torch.testing.assert_close(box, side)


def test_views_cut_by_their_window_bound_nothing() -> None:
    """Padding around a photograph does not show that the object ends there."""
    cameras, masks = captured()
    wanted = object_box(cameras[1:], masks[1:])
    windows = torch.tensor([[0, 0, cameras.width, cameras.height]]).repeat(len(cameras), 1)
    windows[0, 0] = cameras.width // 2
    cut = masks.clone()
    cut[0, :, : cameras.width // 2] = 0
    assert cut[0, :, cameras.width // 2].any()
    for box, side in zip(object_box(cameras, cut, windows), wanted, strict=True):
        torch.testing.assert_close(box, side)
    assert any((a - b).abs().max() > 0.1 for a, b in zip(object_box(cameras, cut), wanted, strict=True))


def test_contradictions_and_unbounded_objects_are_refused() -> None:
    cameras, masks = captured()
    with pytest.raises(InputError, match="do not bound"):
        object_box(cameras[:1], masks[:1])
    with pytest.raises(InputError, match="do not bound"):
        object_box(cameras, torch.ones_like(masks))
    single = torch.zeros_like(masks)
    rows, columns = torch.randint(1, 95, (2, len(masks)))
    single[torch.arange(len(masks)), rows, columns] = 1
    with pytest.raises(InputError, match="do the masks match the poses"):
        object_box(cameras, single)


def test_what_is_wrong_with_silhouettes_is_said() -> None:
    """Faults that all leave the object unbounded, or contradictory, differ in what is to be done."""
    cameras, masks = captured()
    border, count = masks.clone(), len(masks)
    border[:, 0, 7] = 1
    same = replace(cameras, c2w=cameras.c2w[:1].expand(count, 4, 4))
    opencv = replace(cameras, c2w=cameras.c2w * torch.tensor([1, -1, -1, 1]))
    moved = replace(cameras, c2w=cameras.c2w.clone())
    moved.c2w[7, :3, 3] += moved.c2w[7, :3, 0] * 2
    for faulty, silhouettes, message in (
        (cameras[:1], masks[:1], "there is only one view"),
        (cameras, 1 - masks, f"masks reach the border in {count} of {count} views; are they inverted"),
        (cameras, border, f"masks reach the border in {count} of {count} views"),
        (cameras, masks * 0.4, f"masks are below 0.5 everywhere in {count} of {count} views"),
        (same, masks[:1].expand_as(masks), f"all {count} cameras look in the same direction; are the poses right"),
        (opencv, masks, r"with camera axes as in OpenCV \(y down, z forward\) there is"),
        (moved, masks, "without view 7 there is"),
    ):
        with pytest.raises(InputError, match=message):
            object_box(faulty, silhouettes)


def test_upright_rotation_turns_the_mean_up_to_z() -> None:
    seed = fresh_seed()
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.linalg.qr(torch.randn(6, 3, 3, generator=generator, dtype=torch.float64))[0]
    c2w = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    c2w[:, :3, :3] = rotations
    turn = upright_rotation(c2w)
    mean = F.normalize(c2w[:, :3, 1].mean(0), dim=0)
    torch.testing.assert_close(turn[:3, :3] @ mean, torch.tensor([0.0, 0, 1], dtype=torch.float64), msg=str(seed))
    torch.testing.assert_close(turn[:3, :3] @ turn[:3, :3].T, torch.eye(3, dtype=torch.float64), msg=str(seed))
    assert torch.linalg.det(turn) > 0
    down = torch.eye(4)[None] @ torch.diag(torch.tensor([1.0, 1, 1, 1]))
    down[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # the camera's up is -z
    torch.testing.assert_close(
        upright_rotation(down)[:3, :3] @ down[0, :3, 1].double(), torch.tensor([0.0, 0, 1], dtype=torch.float64)
    )
    opposed = torch.stack([torch.eye(4), torch.diag(torch.tensor([-1.0, -1, 1, 1]))])
    with pytest.raises(InputError, match="up"):
        upright_rotation(opposed)
