"""Which real meshes are for training, and which for evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_meshes import SEED, open_meshes, same, turn, variants, write_folder

from liftstudio.training.meshes.packs import StoredMesh, pack_of
from liftstudio.training.meshes.split import group_alike, held_out, shape_profile


def test_shapes_alike_are_one_group(meshes: list[StoredMesh]) -> None:
    """Recoloured, scaled, moved, rotated, mirrored and reordered meshes are grouped; other shapes are not."""
    random = np.random.default_rng(SEED)
    distinct = [mesh for mesh in meshes if "rock" not in mesh.name]
    changed = []
    for mesh in distinct:
        moved = mesh.vertices @ (turn(360 * random.random()) * [1, -1, 1]).T * 3.7 + random.normal(size=3)
        order = random.permutation(len(mesh.faces))
        colors = random.integers(0, 256, mesh.palette.shape).astype(np.uint8)
        changed.append(
            replace(mesh, vertices=moved.astype(np.float16).astype(np.float32), faces=mesh.faces[order], palette=colors)
        )
    groups = group_alike(np.stack([shape_profile(mesh) for mesh in distinct + changed]))
    assert np.array_equal(groups[: len(distinct)], groups[len(distinct) :])
    assert len(set(groups.tolist())) == len(distinct)


def test_groups_are_on_one_side_and_stay_there() -> None:
    names, groups = [f"object-{SEED}-{i}" for i in range(3000)], np.arange(3000) // 3
    measured = np.array(held_out(names, groups)).reshape(1000, 3)
    assert (measured.all(1) == measured.any(1)).all()
    assert 50 <= measured.all(1).sum() <= 115  # 80, within four standard deviations
    fewer = np.array(held_out(names[:1500], groups[:1500])).reshape(500, 3)
    assert np.array_equal(fewer, measured[:500])
    shuffled = np.random.default_rng(SEED).permutation(3000)
    again = held_out([names[i] for i in shuffled], groups[shuffled])
    assert again == measured.reshape(-1)[shuffled].tolist()


def test_few_shapes_have_one_to_measure() -> None:
    for count in range(2, 8):
        assert 1 <= sum(held_out([f"{SEED}-{i}" for i in range(count)], np.arange(count))) < count
    assert held_out(["a", "b"], np.zeros(2, int)) == [False, False]


def test_what_is_measured_is_never_trained_on(meshes: list[StoredMesh], tmp_path: Path) -> None:
    many = [copy for mesh in meshes for copy in variants(mesh, 5)]
    source = open_meshes(write_folder(tmp_path / "packs", [pack_of("many", many)]))
    sides = [{pack.ids[i].rsplit("-", 1)[0] for pack, i in side} for side in (source.trained, source.measured)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(source.trained) + len(source.measured) == 40
    assert [same(source.unseen(0), source.unseen(n)) for n in (0, 1)] == [True, False]
    assert all(source.unseen(n).solid is not None and source.unseen(n).object is None for n in range(3))
    elevations = torch.cat([source.unseen(n).rig.input_camera.elevation_deg for n in range(30)])
    assert -10.001 < elevations.min() < 5 and 30 < elevations.max() < 45.001
    assert max(abs(source.unseen(n).rig.front_deg) for n in range(30)) > 120


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_evaluation_views_are_not_the_input_view(share: float) -> None:
    """Except for priors of closed orbits, which end at the input camera."""
    source = open_meshes(resolution=16, rig={"orbit_share": share, "amplitude_deg": 20})
    for rig in (source.unseen(number).rig for number in range(12)):
        azimuth, elevation = rig.views.azimuth_deg, rig.views.elevation_deg - rig.input_camera.elevation_deg
        from_prompt = ((azimuth + 180) % 360 - 180).abs() + elevation.abs()
        assert (from_prompt < 0.01).tolist() == [False] * 5 + [share == 1]


def test_a_single_mesh_is_trained_on_and_measured(meshes: list[StoredMesh], tmp_path: Path) -> None:
    source = open_meshes(write_folder(tmp_path / "packs", [pack_of("one", meshes[:1])]), objects_share=1)
    sample = source.training(0, 2, torch.Generator().manual_seed(SEED))
    assert sample.input_image[..., 3].sum() > 20 and source.unseen(0).input_image[..., 3].sum() > 20
