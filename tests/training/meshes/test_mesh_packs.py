"""Packs of real meshes: their content, and broken ones."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from packed_meshes import FOLDER, open_meshes, write_folder

from liftstudio.core.errors import InputError
from liftstudio.synthetic.draws import Draws
from liftstudio.training.meshes.packs import StoredMesh, pack_of, read_pack
from liftstudio.training.meshes.posing import MAX_RADIUS, pose
from liftstudio.training.meshes.variation import varied


def test_a_pack_holds_what_its_form_says() -> None:
    packed = read_pack(FOLDER / "samples.npz")
    with np.load(FOLDER / "samples.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert packed.ids == arrays["ids"].tolist() and len(packed) == 8
    for index in range(8):
        mesh = packed.mesh(index)
        rows, faces = (slice(*arrays[name][index : index + 2]) for name in ("v_off", "f_off"))
        assert np.array_equal(mesh.vertices, arrays["v"][rows]) and np.array_equal(mesh.faces, arrays["f"][faces])
        assert np.array_equal(np.rint(mesh.uv * 65535), arrays["uv"][rows])
        assert mesh.texels.shape == tuple(arrays["tex_hw"][index])
        assert mesh.vertices.dtype == mesh.uv.dtype == np.float32 and mesh.faces.dtype == np.int32
    again = pack_of("samples", [packed.mesh(index) for index in range(8)])
    assert all(np.array_equal(again.arrays[name], array) for name, array in arrays.items() if name != "ids")


def test_canonical_pose(meshes: list[StoredMesh], draws: Draws) -> None:
    for mesh in meshes:
        for obj in (pose(mesh), varied(mesh, draws)):
            low, high = obj.vertices.min(0), obj.vertices.max(0)
            longest, radius = (high - low).max(), np.linalg.norm(obj.vertices, axis=1).max()
            assert np.abs(low + high).max() < 1e-6 and np.allclose(obj.half, high)
            assert max(longest - 1.8, radius - MAX_RADIUS) == pytest.approx(0, abs=1e-5)  # one or the other
            assert np.allclose(np.linalg.norm(obj.normals, axis=-1), 1, atol=1e-5)


def test_seams_of_the_texture_are_no_creases() -> None:
    """Vertices at the same position that differ in UV share their normals."""
    ball = trimesh.creation.icosphere(2)
    apart = ball.triangles.reshape(-1, 3).astype(np.float32)  # every face on its own
    faces = np.arange(len(apart), dtype=np.int32).reshape(-1, 3)
    mesh = StoredMesh("ball", apart, faces, np.zeros((len(apart), 2), np.float32), np.zeros((1, 1), np.uint8),
                      np.zeros((1, 3), np.uint8))  # fmt: skip
    obj = pose(mesh)
    assert (obj.normals * obj.vertices[obj.faces]).sum(-1).min() > 0.995 * 0.75  # radius 0.75 where the sphere is 1.3


def _set(name: str, change: Callable[[np.ndarray], object]) -> Callable[[dict[str, np.ndarray]], None]:
    def apply(arrays: dict[str, np.ndarray]) -> None:
        changed = arrays[name].copy()
        result = change(changed)
        arrays[name] = result if isinstance(result, np.ndarray) else changed

    return apply


def _put(index: Any, value: float) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(index, value)


def _empty_last(array: np.ndarray) -> None:
    array[-2] = array[-1]


def _falling(array: np.ndarray) -> np.ndarray:
    array[3] = array[4] + 1
    return array.astype(np.uint64)


def _huge(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.uint64)
    array[0, 0] = 2**64 - 1
    return array


BROKEN = {
    "no array v": (lambda arrays: arrays.pop("v"), "it has no array v"),
    "objects": (_set("ids", lambda a: a.astype(object)), "not a readable pack"),
    "same id": (_set("ids", _put(1, "kaykit_furniture_armchair")), "ids: expected unique strings"),
    "integer vertices": (_set("v", lambda a: a.astype(np.int32)), r"v: int32 .* is not the dtype and shape"),
    "flat vertices": (_set("v", lambda a: a[:, :2]), r"v: float16 \[\d+, 2\]"),
    "wide colours": (_set("pal", lambda a: a.astype(np.uint16)), "pal: expected uint8"),
    "short uv": (_set("uv", lambda a: a[:-1]), "uv: expected uint16 and one row for each row of v"),
    "offsets": (_set("f_off", _put(3, 10**6)), "f_off: expected 9 offsets that increase from 0 to the length of f"),
    "unsigned offsets": (_set("f_off", _falling), "f_off: expected 9 offsets that increase from 0 to the length of f"),
    "missing offset": (_set("v_off", lambda a: a[:-1]), "v_off: expected 9 offsets"),
    "sizes": (_set("tex_hw", lambda a: a[:-1]), "tex_hw: expected integer height and width of 8 textures"),
    "texture size": (_set("tex_hw", _put((2, 1), 77)), "quat_nature_pack_rock_moss_5: its texture does not have"),
    "index": (_set("f", _put((0, 0), 65000)), "kaykit_furniture_armchair: its faces refer to missing vertices"),
    "huge index": (_set("f", _huge), "kaykit_furniture_armchair: its faces have negative vertex indices"),
    "not finite": (_set("v", _put((-1, 0), np.nan)), "kaykit_dungeon_torch_gltf: its vertices are not finite"),
    "no faces": (_set("f_off", _empty_last), "kaykit_dungeon_torch_gltf: it has no faces"),
    "no texture": (_set("tex_off", _empty_last), "kaykit_dungeon_torch_gltf: it has no texture"),
    "colour": (_set("tex", _put(-1, 255)), "its texels refer to missing colours"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_packs_are_refused(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    with np.load(FOLDER / "samples.npz", allow_pickle=False) as file:
        arrays = dict(file)
    if name == "colour":  # of an object that has fewer
        arrays["pal"] = arrays["pal"][:-9]
        arrays["pal_off"] = np.append(arrays["pal_off"][:-1], len(arrays["pal"]))
    change(arrays)
    np.savez(tmp_path / "broken.npz", **arrays)
    with pytest.raises(InputError, match=rf"^{tmp_path}/broken.npz: .*{message}"):
        read_pack(tmp_path / "broken.npz")


def test_files_that_are_not_packs(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    whole = (FOLDER / "samples.npz").read_bytes()
    (tmp_path / "torn.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "torn", "absent"):
        with pytest.raises(InputError, match=rf"{name}.npz: not a readable pack"):
            read_pack(tmp_path / f"{name}.npz")


def test_catalogues_that_cannot_be_used(meshes: list[StoredMesh], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("some", meshes)])
    sound = (folder / "catalog.csv").read_text().splitlines(keepends=True)
    for text, message in {
        "".join(sound[:-1]): r"no row for kaykit_dungeon_torch_gltf from some\.npz",
        "".join([*sound, sound[-1]]): "kaykit_dungeon_torch_gltf: listed twice",
        "".join(sound).replace("torch_gltf,some,CC0", "torch_gltf,some, "): "torch_gltf: no licence is given",
        "id,pack\n": "column missing: licence",
    }.items():
        (folder / "catalog.csv").write_text(text)
        with pytest.raises(InputError, match=rf"catalog\.csv: .*{message}"):
            open_meshes(folder)
    (folder / "catalog.csv").unlink()
    with pytest.raises(InputError, match=r"catalog\.csv: No such file"):
        open_meshes(folder)


def test_weights_of_missing_packs(meshes: list[StoredMesh], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning, also for misspelt names; none for the user's own files, which have no packs."""
    with caplog.at_level(logging.WARNING, "liftstudio"):
        open_meshes(weights={"samples": 2, "sample": 3, "kaykit": 1})
    assert f"data.weights: {FOLDER} has no pack named kaykit or sample" in caplog.messages
    caplog.clear()
    with caplog.at_level(logging.WARNING, "liftstudio"):
        open_meshes(weights={"samples": 2})
        trimesh.creation.box().export(tmp_path / "box.ply")
        open_meshes(tmp_path, weights={"kaykit": 1})
    assert not caplog.messages


def test_packs_and_files_in_one_folder(meshes: list[StoredMesh], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("some", meshes[:2])])
    (folder / "more").mkdir()
    trimesh.creation.box().export(folder / "more" / "box.ply")
    with pytest.raises(InputError, match=r"^data\.objects: .*packs: holds both packs and mesh files .*more/box\.ply\)"):
        open_meshes(folder)


def test_folders_and_options_that_cannot_be_used(tmp_path: Path) -> None:
    for path, message in {tmp_path / "none": "no such folder", FOLDER / "catalog.csv": "expected a folder"}.items():
        with pytest.raises(InputError, match=f"^data.objects: .*{message}"):
            open_meshes(path)
    with pytest.raises(InputError, match=r"found neither packs \(\*\.npz\) nor mesh files \(\.glb"):
        open_meshes(tmp_path)
    for options, message in {
        '{"objects_share": 1.1}': r"objects_share: expected 0 to 1, got 1\.1",
        '{"weights": {"samples": 0}}': "data.weights: 0 for every mesh",
        '{"captures": "renders"}': "give captures or objects, not both",
        '{"licences": "some"}': "licences",
    }.items():
        with pytest.raises(InputError, match=message):
            open_meshes(**json.loads(options))
