"""Maps of posed images: depths and normals as they are stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captures import Shots, edit, load
from helpers.seeds import fresh_seed
from PIL import Image

from liftstudio.core.errors import InputError


def test_maps(shots: Shots, tmp_path: Path) -> None:
    depth = np.random.default_rng(fresh_seed()).integers(1, 65535, (5, 24, 32), dtype=np.uint16)
    normal = F.normalize(torch.randn(5, 24, 32, 3), dim=-1)
    encoded = ((normal + 1) * 127.5).round().byte().numpy()

    def point(data: dict[str, Any]) -> None:
        for i, frame in enumerate(data["frames"]):
            frame.update(depth_file_path=f"depth_{i}.png", normal_path=f"normal_{i}.png")

    shots.save(tmp_path, point)
    for i in range(5):
        Image.fromarray(depth[i]).save(tmp_path / f"depth_{i}.png")
        Image.fromarray(encoded[i]).save(tmp_path / f"normal_{i}.png")
    views = load(tmp_path)
    assert views.depths is not None and views.normals is not None
    torch.testing.assert_close(views.depths[..., 0], torch.from_numpy(depth.astype(np.float32)))
    in_metres = load(tmp_path, depth_unit=0.001).depths
    torch.testing.assert_close(in_metres, views.depths * 0.001)
    wanted = torch.einsum("vij,vhwj->vhwi", shots.cameras.c2w[:, :3, :3], normal)
    assert (views.normals - wanted).norm(dim=-1).max() < 0.015  # 8 bits a channel
    as_world = load(tmp_path, normal_space="world").normals
    assert as_world is not None and (as_world - normal).norm(dim=-1).max() < 0.015
    small = load(tmp_path, max_size=8)
    assert small.depths is not None and small.depths.shape == (5, 6, 8, 1)
    (tmp_path / "depth_2.png").unlink()
    np.save(tmp_path / "depth_2.npy", depth[2].astype(np.float64))
    edit(tmp_path, lambda data: data["frames"][2].update(depth_file_path="depth_2.npy"))
    torch.testing.assert_close(load(tmp_path).depths, views.depths)
    edit(tmp_path, lambda data: data["frames"][1].pop("normal_path"))
    with pytest.raises(InputError, match=r"001\.png: no normal map"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_depths_in_metres(suffix: str, shots: Shots, tmp_path: Path) -> None:
    metres = np.linspace(1.2, 1.8, 24 * 32, dtype=np.float32).reshape(24, 32)
    shots.save(tmp_path, lambda data: [f.update(depth_file_path=f"d.{suffix}") for f in data["frames"]])
    if suffix == "npy":
        np.save(tmp_path / "d.npy", metres)
    else:
        Image.fromarray(metres).save(tmp_path / "d.tif")
    depths = load(tmp_path).depths
    assert depths is not None and torch.equal(depths[3, ..., 0], torch.from_numpy(metres))
    Image.fromarray((metres * 1000).astype(np.int32)).save(tmp_path / "d.tif")
    edit(tmp_path, lambda data: [f.update(depth_file_path="d.tif") for f in data["frames"]])
    depths = load(tmp_path, depth_unit=0.001).depths
    assert depths is not None and (depths[3, ..., 0] - torch.from_numpy(metres)).abs().max() < 0.0011


def test_depths_as_a_coloured_picture_are_refused(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: [f.update(depth_file_path=f["file_path"]) for f in data["frames"]])
    with pytest.raises(InputError, match=r"000\.png: a coloured picture; expected depths, in one channel"):
        load(tmp_path)


def test_normals_in_floats(shots: Shots, tmp_path: Path) -> None:
    normal = F.normalize(torch.randn(24, 32, 3), dim=-1)
    shots.save(tmp_path, lambda data: [f.update(normal_file_path="n.npy") for f in data["frames"]])
    np.save(tmp_path / "n.npy", normal.numpy())
    normals = load(tmp_path, normal_space="world").normals
    assert normals is not None
    torch.testing.assert_close(normals, normal.expand(5, -1, -1, -1))
    for colors in (normal / 2 + 0.5, 127.5 * (normal + 1)):
        np.save(tmp_path / "n.npy", colors.numpy())
        with pytest.raises(InputError, match=r"n\.npy: vectors of length .*; expected normals, of length 1"):
            load(tmp_path)
    np.save(tmp_path / "n.npy", normal[..., 0].numpy())
    with pytest.raises(InputError, match=r"n\.npy: expected normals of shape \[H, W, 3\]"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no numpy file", "not a readable array"),
        (b"", "not a readable array"),
        (np.zeros((3, 4)), r"4x3 pixels"),
        (np.full((24, 32), np.nan), "finite"),
        (np.zeros((24, 32, 2)), r"\[H, W\]"),
        (np.array([{}]), "not a readable array"),
    ],
)
def test_faulty_depths(content: Any, message: str, shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: data["frames"][0].update(depth_path="depth.npy"))
    if isinstance(content, bytes):
        (tmp_path / "depth.npy").write_bytes(content)
    else:
        np.save(tmp_path / "depth.npy", content)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_depths_beside_the_object_need_not_be_finite(nothing: float, shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: [frame.update(depth_path="depth.npy") for frame in data["frames"]])
    beside = (shots.rgba[..., 3] == 0).all(0)
    assert beside.any()
    np.save(tmp_path / "depth.npy", np.where(beside, nothing, 1.5))
    depths = load(tmp_path).depths
    assert depths is not None
    torch.testing.assert_close(depths[0, ..., 0], torch.from_numpy(np.where(beside, 0, 1.5)).float())
