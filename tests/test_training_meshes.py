"""Real meshes that priors are trained on: packs and files, their split, pictures, insides and mixture."""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from posed_toys import write_capture
from torch import Tensor

from liftstudio.cameras import Cameras, orbit_cameras, turned
from liftstudio.config import parse
from liftstudio.errors import InputError
from liftstudio.mesh import Mesh
from liftstudio.metrics import voxels
from liftstudio.priors.training.captures import Captures
from liftstudio.priors.training.config import TrainingConfig
from liftstudio.priors.training.data import DataConfig, ProceduralObjects, Sample
from liftstudio.priors.training.loop import open_source
from liftstudio.priors.training.meshes import attribution, reference
from liftstudio.priors.training.meshes.augmentation import augmented
from liftstudio.priors.training.meshes.catalog import is_allowed
from liftstudio.priors.training.meshes.files import FACES, read_file
from liftstudio.priors.training.meshes.objects import MAX_RADIUS, pose
from liftstudio.priors.training.meshes.packs import Pack, StoredMesh, pack_of, read_pack
from liftstudio.priors.training.meshes.rendering import Lighting, draw_lighting, render
from liftstudio.priors.training.meshes.solids import GRID, Solids, carve, kept_cells
from liftstudio.priors.training.meshes.source import BORDER, MeshObjects, view_mesh
from liftstudio.priors.training.meshes.split import group_alike, held_out, shape_profile
from liftstudio.priors.training.meshes.variation import recoloured, varied
from liftstudio.priors.training.objects import make_object, split
from liftstudio.priors.training.objects.draws import Draws
from liftstudio.priors.training.objects.occupancy import occupancy
from liftstudio.priors.training.objects.textures import Pattern
from liftstudio.priors.training.rigs import RigConfig, draw_rig
from liftstudio.priors.training.solids import Solid, pack, procedural_solid, unit_frame, unpack

SEED = int.from_bytes(os.urandom(3), "little")
FOLDER = Path(__file__).parent / "data" / "objects_pack"
COLUMNS = ("id", "pack", "licence", "author", "title", "source")
WIDE_RIG = {
    "prompt_azimuth_deg": 180, "prompt_elevation_deg": [-20, 60], "amplitude_deg": 20, "lens_share": 1,
    "lens_fov_deg": [25, 60], "roll_deg": 15, "shift": 0.1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def meshes() -> list[StoredMesh]:
    packed = read_pack(FOLDER / "samples.npz")
    return [packed.mesh(index) for index in range(len(packed))]


@pytest.fixture
def draws() -> Draws:
    return Draws(torch.Generator().manual_seed(SEED))


def write_folder(folder: Path, packs: list[Pack], **columns: str) -> Path:
    """A folder with packs whose objects are CC0 unless `columns` says otherwise."""
    folder.mkdir(exist_ok=True)
    with (folder / "catalog.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for one in packs:
            np.savez(folder / f"{one.name}.npz", ids=np.array(one.ids), **one.arrays)
            writer.writerows({"id": name, "pack": one.name, "licence": "CC0", **columns} for name in one.ids)
    return folder


def open_meshes(folder: Path = FOLDER, **options: Any) -> MeshObjects:
    return MeshObjects(parse({"objects": str(folder), "resolution": 32, **options}, DataConfig))


def variants(mesh: StoredMesh, count: int) -> list[StoredMesh]:
    """The mesh under other names."""
    return [replace(mesh, name=f"{mesh.name}-{number}") for number in range(count)]


def turn(angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def same(a: Sample, b: Sample) -> bool:
    pairs = [(a.prompt, b.prompt), (a.images, b.images), (a.rig.prompt.c2w, b.rig.prompt.c2w)]
    return all(torch.equal(*pair) for pair in pairs)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


# Reading


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
            assert max(longest - 1.8, radius - MAX_RADIUS) == pytest.approx(0, abs=1e-5)  # the one or the other
            assert np.allclose(np.linalg.norm(obj.normals, axis=-1), 1, atol=1e-5)


def test_seams_of_the_texture_are_no_creases() -> None:
    """Vertices of one place that differ in uv share their normals."""
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


BROKEN = {
    "no array v": (lambda arrays: arrays.pop("v"), "it has no array v"),
    "objects": (_set("ids", lambda a: a.astype(object)), "not a readable pack"),
    "same id": (_set("ids", _put(1, "kaykit_furniture_armchair")), "ids: wanted texts, each once"),
    "integer vertices": (_set("v", lambda a: a.astype(np.int32)), r"v: int32 .* is not what a pack holds there"),
    "flat vertices": (_set("v", lambda a: a[:, :2]), r"v: float16 \[\d+, 2\]"),
    "wide colours": (_set("pal", lambda a: a.astype(np.uint16)), "pal: wanted uint8"),
    "short uv": (_set("uv", lambda a: a[:-1]), "uv: wanted uint16, a row for each of v"),
    "offsets": (_set("f_off", _put(3, 10**6)), "f_off: wanted 9 offsets that rise from 0 to the end of f"),
    "missing offset": (_set("v_off", lambda a: a[:-1]), "v_off: wanted 9 offsets"),
    "sizes": (_set("tex_hw", lambda a: a[:-1]), "tex_hw: wanted height and width of 8 textures"),
    "texture size": (_set("tex_hw", _put((2, 1), 77)), "quat_nature_pack_rock_moss_5: its texture has another size"),
    "index": (_set("f", _put((0, 0), 65000)), "kaykit_furniture_armchair: faces of vertices that it does not have"),
    "not finite": (_set("v", _put((-1, 0), np.nan)), "kaykit_dungeon_torch_gltf: vertices that are not finite"),
    "no faces": (_set("f_off", _empty_last), "kaykit_dungeon_torch_gltf: it has no faces"),
    "no texture": (_set("tex_off", _empty_last), "kaykit_dungeon_torch_gltf: it has no texture"),
    "colour": (_set("tex", _put(-1, 255)), "texels of colours that it does not have"),
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


def test_files_that_are_no_packs(tmp_path: Path) -> None:
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
        "".join(sound[:-1]): r"no row for kaykit_dungeon_torch_gltf of some\.npz",
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


def test_folders_and_options_that_cannot_be_used(tmp_path: Path) -> None:
    for path, message in {tmp_path / "none": "no such folder", FOLDER / "catalog.csv": "wanted a folder"}.items():
        with pytest.raises(InputError, match=f"^data.objects: .*{message}"):
            open_meshes(path)
    with pytest.raises(InputError, match=r"neither packs \(\*\.npz\) nor mesh files \(\.glb"):
        open_meshes(tmp_path)
    for options, message in {
        '{"objects_share": 1.1}': "objects_share: wanted 0 to 1",
        '{"weights": {"samples": -1}}': "weights.samples: wanted 0 or more",
        '{"weights": {"samples": 0}}': "data.weights: 0 for every mesh",
        '{"captures": "renders"}': "give captures or objects, not both",
        '{"licences": "some"}': "licences",
        '{"rig": {"shift": 0.6}}': "rig.shift: wanted 0 to 0.4",
        '{"rig": {"roll_deg": -1}}': "rig.roll_deg: wanted 0 to 180",
    }.items():
        with pytest.raises(InputError, match=message):
            open_meshes(**json.loads(options))


# Licences


@pytest.mark.parametrize(
    "licence",
    ["CC0", "CC0-1.0", "public domain", "public-domain", "CC-BY", "CC-BY-3.0", "CC-BY-3.0-US", "cc-by-4.0", "MIT",
     "MIT-0", "BSD-3-Clause", "0BSD", "Apache-2.0"],
)  # fmt: skip
def test_permissive_licences(licence: str) -> None:
    assert is_allowed(licence, "permissive")


@pytest.mark.parametrize(
    "licence",
    ["CC-BY-SA-4.0", "CC-BY-SA-4.0 and CC-BY-SA-3.0", "CC-BY-NC-3.0", "CC-BY-ND-4.0", "CC-BY-NC-SA-4.0", "GPL",
     "GPL-2.0-or-later", "Free-Art-1.3", "ISC", "unknown", "CC-BY-3.0 or GPL-2"],
)  # fmt: skip
def test_other_licences(licence: str) -> None:
    assert not is_allowed(licence, "permissive") and is_allowed(licence, "any")


def test_objects_are_left_out_for_their_licence(
    meshes: list[StoredMesh], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("free", meshes[:3]), pack_of("shared", meshes[3:])])
    text = (folder / "catalog.csv").read_text()
    (folder / "catalog.csv").write_text(text.replace("shared,CC0", "shared,CC-BY-SA-3.0"))
    with caplog.at_level(logging.INFO, "liftstudio"):
        source = open_meshes(folder)
    assert "objects: 5 left out for their licences: CC-BY-SA-3.0 5" in caplog.text
    found = [pack.ids[i] for pack, i in source.trained + source.measured]
    assert sorted(found) == sorted(mesh.name for mesh in meshes[:3])
    source = open_meshes(folder, licences="any")
    assert len(source.trained) + len(source.measured) == 8
    (folder / "catalog.csv").write_text(text.replace("CC0", "GPL"))
    with pytest.raises(InputError, match=r"data\.licences leaves no object"):
        open_meshes(folder)


def test_attribution_names_who_asks_for_it(meshes: list[StoredMesh], tmp_path: Path, capsys: Any) -> None:
    folder = write_folder(tmp_path / "packs", [pack_of("a", meshes[:2]), pack_of("b", meshes[2:4])])
    rows = [
        ("a", meshes[0].name, "CC-BY-3.0", "Ann", "Chair", "one.org"),
        ("a", meshes[1].name, "CC0", "Bob", "Cactus", "one.org"),
        ("b", meshes[2].name, "CC-BY-SA-4.0", "Cid", "Rock", "two.org"),
        ("b", meshes[3].name, "CC-BY-4.0", "", "", "two.org"),
        ("absent", "x", "CC-BY-4.0", "Dee", "Gone", "two.org"),
    ]
    lines = [",".join((row[1], row[0], *row[2:])) for row in rows]
    (folder / "catalog.csv").write_text("\n".join([",".join(COLUMNS), *lines]))
    assert attribution.main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "## one.org\n\n- Ann, CC-BY-3.0: Chair\n\n## two.org\n\n" in shown
    assert f"- author unknown, CC-BY-4.0: {meshes[3].name}\n" in shown
    assert not any(word in shown for word in ("Bob", "Cid", "Dee"))
    assert attribution.main([str(folder), "--licences", "any", "--output", str(tmp_path / "ATTRIBUTION.md")]) == 0
    assert "- Cid, CC-BY-SA-4.0: Rock\n" in (tmp_path / "ATTRIBUTION.md").read_text()
    assert attribution.main([str(tmp_path)]) == 2
    assert "catalog.csv" in capsys.readouterr().err


# Split


def test_shapes_alike_are_one_group(meshes: list[StoredMesh]) -> None:
    """In other colours, sizes, places and turns, mirrored, and with faces in another order; other shapes are not."""
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
    assert 50 <= measured.all(1).sum() <= 115  # 80 and four deviations
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
    elevations = torch.cat([source.unseen(n).rig.prompt.elevation_deg for n in range(30)])
    assert -10.001 < elevations.min() < 5 and 30 < elevations.max() < 45.001
    assert max(abs(source.unseen(n).rig.front_deg) for n in range(30)) > 120


def test_a_single_mesh_is_trained_on_and_measured(meshes: list[StoredMesh], tmp_path: Path) -> None:
    source = open_meshes(write_folder(tmp_path / "packs", [pack_of("one", meshes[:1])]), objects_share=1)
    sample = source.training(0, 2, torch.Generator().manual_seed(SEED))
    assert sample.prompt[..., 3].sum() > 20 and source.unseen(0).prompt[..., 3].sum() > 20


# Samples


def test_a_number_means_one_sample() -> None:
    first, second = (open_meshes(toys=0.5, rig=WIDE_RIG) for _ in range(2))
    for number in range(20):
        a, b = (s.training(number, 2, torch.Generator().manual_seed(SEED + number)) for s in (first, second))
        assert same(a, b)
        other = first.training(number, 2, torch.Generator().manual_seed(SEED - 1 - number))
        assert not torch.equal(a.images, other.images)


def test_mixture(meshes: list[StoredMesh], tmp_path: Path) -> None:
    """Shares of meshes and of toys, and of packs by the weights of their meshes; four deviations."""
    packs = [pack_of("rare", variants(meshes[0], 9)), pack_of("often", variants(meshes[4], 3))]
    packs.append(pack_of("never", variants(meshes[5], 3)))
    packs.append(pack_of("measured", variants(meshes[6], 1)))
    folder = write_folder(tmp_path / "packs", packs)
    options = {"weights": {"often": 6, "never": 0, "rare": 1, "measured": 0}, "resolution": 16, "augment": False}
    source = open_meshes(folder, objects_share=0.7, **options)
    expected = {
        pack.name: source.config.weights[pack.name] * sum(other is pack for other, _ in source.trained)
        for pack, _ in source.trained
    }
    generator, samples = torch.Generator().manual_seed(SEED), 200
    drawn = [source.training(number, 1, generator) for number in range(samples)]
    real = sum(sample.object is None for sample in drawn)
    assert abs(real - 0.7 * samples) < 4 * (0.21 * samples) ** 0.5
    places = torch.rand(20000, dtype=torch.float64, generator=generator) * source.until[-1]
    chosen = Counter(source.trained[i][0].name for i in torch.searchsorted(source.until, places, right=True).tolist())
    for name, weight in expected.items():
        share = weight / sum(expected.values())
        assert abs(chosen[name] - 20000 * share) <= 4 * (20000 * share * (1 - share)) ** 0.5
    assert all(sample.object is not None for sample in (open_meshes(folder, objects_share=0).training(i, 1, generator)
                                                        for i in range(5)))  # fmt: skip


def test_prompts_show_the_whole_mesh(meshes: list[StoredMesh], draws: Draws) -> None:
    generator = torch.Generator().manual_seed(SEED)
    config = parse(WIDE_RIG, RigConfig)
    drawn_back = 0
    for number in range(40):
        obj, rig = varied(meshes[number % 8], draws), draw_rig(config, 2, 48, generator)
        sample = view_mesh(meshes[number % 8], obj, draw_lighting(draws), rig, Solids())
        prompt = turned(sample.rig.prompt, -sample.rig.front_deg)
        pixels, depth = prompt.project(torch.from_numpy(obj.vertices))
        assert depth.min() > 0 and pixels.min() > 48 * BORDER - 1e-3 and pixels.max() < 48 * (1 - BORDER) + 1e-3
        rgba = sample.prompt
        edge = torch.cat([rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]])
        assert (edge[:, 3] < 1).all()
        moved = float((sample.rig.prompt.centers - rig.prompt.centers).norm())
        drawn_back += moved > 0
        tight = min(float(pixels.min()), 48 - float(pixels.max())) - 48 * BORDER
        assert moved == 0 or abs(tight) < 1e-2  # no farther than needed
        torch.testing.assert_close(sample.rig.prompt.c2w[:, :3, :3], rig.prompt.c2w[:, :3, :3])
    assert 0 < drawn_back < 40


def test_rolled_and_shifted_prompts() -> None:
    """The views are what they would be without, and the prompt's camera still looks along the same axis."""
    generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
    plain = draw_rig(RigConfig(lens_share=0), 3, 64, generators[0])
    askew = draw_rig(RigConfig(lens_share=0, roll_deg=20, shift=0.1), 3, 64, generators[1])
    assert torch.equal(plain.views.c2w, askew.views.c2w) and plain.front_deg == askew.front_deg
    torch.testing.assert_close(plain.prompt.forward, askew.prompt.forward)
    torch.testing.assert_close(plain.prompt.centers, askew.prompt.centers)
    cosine = float((plain.prompt.c2w[0, :3, 0] * askew.prompt.c2w[0, :3, 0]).sum())
    assert np.cos(np.radians(20)) - 1e-6 <= cosine < 1
    shift = torch.cat([askew.prompt.cx, askew.prompt.cy]) / 64 - 0.5
    assert 0 < shift.abs().max() <= 0.1


def test_augmentation_leaves_shape_and_cameras() -> None:
    """Colours may change, silhouettes only of prompts; what is measured is not touched."""
    plain, changed = (open_meshes(augment=flag, objects_share=1) for flag in (False, True))
    recolored = sharp = 0
    for number in range(40):
        a, b = (s.training(number, 2, torch.Generator().manual_seed(SEED + number)) for s in (plain, changed))
        assert torch.equal(a.rig.prompt.c2w, b.rig.prompt.c2w) and torch.equal(a.rig.views.c2w, b.rig.views.c2w)
        assert a.depths is not None and b.depths is not None and torch.equal(a.depths, b.depths)
        torch.testing.assert_close(a.images[..., 3], b.images[..., 3], atol=1e-6, rtol=0)
        recolored += (a.images - b.images).abs().max() > 0.01
        sharp += (a.prompt - b.prompt).abs().max() < 1e-5
    assert 5 < recolored < 30 and 3 < sharp < 25
    assert all(same(plain.unseen(number), changed.unseen(number)) for number in range(3))


def test_augmented_prompts_stay_pictures() -> None:
    generator = torch.Generator().manual_seed(SEED)
    prompt = open_meshes(objects_share=1, augment=False).training(0, 1, generator).prompt
    prompts, views = (torch.stack(one) for one in zip(*[augmented(prompt, prompt[None], generator) for _ in range(60)],
                                                      strict=True))  # fmt: skip
    assert prompts.shape == (60, 32, 32, 4) and views.shape == (60, 1, 32, 32, 4)
    for found in (prompts, views):
        assert found.min() >= 0 and found.max() <= 1 + 1e-6
    alpha = prompt[..., 3]
    far = torch.nn.functional.max_pool2d(alpha[None, None], 7, 1, 3)[0, 0] == 0
    assert (prompts[:, far][..., :3] == 1).all() and (prompts[:, far][..., 3] == 0).all()
    assert (prompts[..., 3] - alpha).abs().mean() < 0.05  # the shape stays
    mean = [found[..., :3].flatten(1, -2).mean(1) for found in (prompts, views)]
    assert (mean[0] - mean[1]).abs().max() < 0.01  # the prompt tells the views' colours
    assert mean[1].std(0).max() > 0.003


# Pictures


def random_cameras(count: int) -> Cameras:
    azimuth, elevation, distance = torch.rand(3, count, generator=torch.Generator().manual_seed(SEED)).unbind(0)
    cameras = orbit_cameras(360 * azimuth, 160 * elevation - 80, 2.6 + 2 * distance, 40.0, 44, 60)
    return replace(cameras, cx=cameras.cx + 3.3, cy=cameras.cy - 2.7)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_renderer_against_plain_torch(meshes: list[StoredMesh], draws: Draws, pattern: Pattern) -> None:
    cameras = random_cameras(3)
    for mesh in meshes:
        obj = varied(mesh, draws)
        second = 255 - obj.textures[0]
        overlay = replace(obj.overlay, pattern=pattern, count=3.7, shift=0.35)
        obj = replace(obj, textures=np.stack([obj.textures[0], second]), overlay=overlay)
        lighting = draw_lighting(draws)
        fast, slow = render(obj, cameras, lighting), reference.render(obj, cameras, lighting)
        assert torch.equal(fast.alpha, slow.alpha) and 0 < slow.alpha.mean() < 1
        # Faces seen nearly edge-on are where a sample's depth is ill-conditioned; rounding moves a sample across the
        # border of a stripe now and then.
        assert ((fast.depth - slow.depth).abs() > 1e-4).float().mean() < 1e-3
        assert ((fast.rgb - slow.rgb).abs().amax(-1) > 1e-3).float().mean() < 4e-3


def test_winding_and_light(meshes: list[StoredMesh]) -> None:
    """Faces look the same from both sides, and brighter where the light comes from."""
    lighting = Lighting(np.full(3, 0.3), np.array([[1.0, 0, 0]]), np.full((1, 3), 0.7))
    cameras = orbit_cameras(torch.tensor([0.0, 180.0]), torch.zeros(2), 3.6, 33.8, 48, 48)
    heart = next(mesh for mesh in meshes if "heart" in mesh.name)
    flipped = replace(heart, faces=np.ascontiguousarray(heart.faces[:, ::-1]))
    images = [render(pose(mesh), cameras, lighting) for mesh in (heart, flipped)]
    assert (images[0].rgb - images[1].rgb).abs().mean() < 1e-3  # nearly edge-on normals may turn over
    front, back = ((image.rgb * alpha).sum() / alpha.sum() for image, alpha in zip(*_halves(images[0]), strict=True))
    assert front > 1.3 * back


def _halves(images: Any) -> tuple[list[Any], list[Tensor]]:
    return [replace(images, rgb=images.rgb[i]) for i in range(2)], [images.alpha[i] for i in range(2)]


def test_texels_are_where_the_uv_says() -> None:
    """A quadrangle seen from the front shows its texture upright; a palette is not interpolated."""
    corners = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float32)
    uv = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    square = StoredMesh("square", corners, faces, uv, np.array([[0, 1], [2, 3]], np.uint8), palette)
    row = replace(square, texels=np.array([[0, 1, 2, 3]], np.uint8))
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    camera = orbit_cameras(torch.zeros(1), torch.zeros(1), 3.6, 28.1, 64, 64)  # shows 1.8 world units
    rgb = render(pose(square), camera, even).rgb[0]
    for place, color in {(16, 16): 0, (16, 47): 1, (47, 16): 2, (47, 47): 3}.items():
        assert torch.allclose(rgb[place], torch.from_numpy(palette[color]).float() / 255, atol=0.05)
    assert 0.3 < rgb[16, 31:33, :2].mean() < 0.7  # between two texels
    shown = {tuple(color.tolist()) for color in render(pose(row), camera, even).rgb[0, 32, 4:60]}
    assert len(shown) <= 4 + 3  # the colours, and a pixel across each border


def test_variation_changes_shape_side_and_colours(meshes: list[StoredMesh], draws: Draws) -> None:
    mesh = meshes[0]
    drawn = [varied(mesh, draws) for _ in range(150)]
    ratios = np.array([obj.half / obj.half.max() for obj in drawn]) / (pose(mesh).half / pose(mesh).half.max())
    assert ratios.min() > 0.8 / 1.25 - 0.01 and ratios.max() < 1.25 / 0.8 + 0.01 and ratios.std(0).max() > 0.05
    assert 40 < sum(obj.mirrored for obj in drawn) < 110
    recolored = sum(not np.array_equal(obj.textures[0], mesh.palette[mesh.texels]) for obj in drawn)
    assert 5 <= recolored <= 45
    assert any(obj.overlay.pattern != Pattern.SOLID for obj in drawn)
    grey = np.full((4, 3), 128, np.uint8)
    assert np.ptp(recoloured(grey, draws), axis=1).max() > 3


# Insides


def sampled(count: int = 60_000) -> Tensor:
    return 1.9 * torch.rand(count, 3, generator=torch.Generator().manual_seed(SEED)) - 0.95


def exactly(obj: Any, points: Tensor, grid: int = 192) -> tuple[Tensor, np.ndarray]:
    """The points moved to vertices of a fine grid, and whether the winding number there is positive."""
    index = ((points / 0.95 + 1) / 2 * (grid - 1)).round().long()
    inside = occupancy(obj, grid, 0.95, 0.0)[index[:, 2], index[:, 1], index[:, 0]]
    return (index / (grid - 1) * 2 - 1) * 0.95, inside.numpy()


def test_look_up_against_plain_indexing() -> None:
    random = np.random.default_rng(SEED)
    cells = random.random((16, 16, 16)) < 0.4
    assert np.array_equal(unpack(pack(cells)), cells)
    half, front = np.array([0.9, 0.5, -0.7]), 33.0
    points = sampled(5000)
    canonical = points.double().numpy() @ turn(front)  # turned by -33 degrees
    unit = canonical / half / 2 + 0.5
    within = ((unit >= 0) & (unit < 1)).all(1)
    index = (unit.clip(0, 0.9999) * 16).astype(int)
    wanted = cells[tuple(index.T)] & within
    found = Solid(lambda: pack(cells), unit_frame(front, half)).contains(points)
    assert found.dtype == torch.bool and (found.numpy() != wanted).mean() < 1e-3  # rounding at borders
    odd = torch.tensor([[float("nan"), 0, 0], [float("inf"), 0, 0], [1e30, 1e30, 1e30]])
    assert not Solid(lambda: pack(np.ones_like(cells)), unit_frame(front, half)).contains(odd).any()
    with pytest.raises(ValueError, match="points"):
        Solid(lambda: pack(cells), unit_frame(front, half)).contains(points[:, :2])


@pytest.mark.parametrize("kind", ["toy", "composite"])
def test_insides_of_procedural_objects(kind: Any) -> None:
    """Of the winding number's own grid, and carved from depth maps as if it were any mesh, against the number."""
    scores = []
    for number in range(5):
        obj = make_object(kind, split(SEED + number, kind, "train"))
        points, inside = exactly(obj, sampled())
        own = procedural_solid(obj, 0.0).contains(points).numpy()
        half = obj.vertices.max(0).astype(np.float64)
        bits = carve(obj.vertices, obj.faces)
        carved = Solid(lambda bits=bits: bits, unit_frame(0.0, half)).contains(points).numpy()  # type: ignore[misc]
        scores.append((iou(own, inside), iou(carved, inside)))
    mean = np.mean(scores, axis=0)
    assert mean[0] > 0.94 and mean[1] > 0.93  # what cells of 1/96 and 1/72 of the box can tell


def test_insides_of_closed_meshes(meshes: list[StoredMesh]) -> None:
    scores = {}
    for mesh in meshes:
        solid = trimesh.Trimesh(mesh.vertices, mesh.faces)
        if solid.is_watertight and solid.is_winding_consistent:
            surface = Mesh(torch.from_numpy(pose(mesh).vertices), torch.from_numpy(mesh.faces).long())
            exact = voxels.occupancy(surface, 64)
            axis = torch.arange(64) / 32 - 1.0
            places = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
            found = Solids().of(mesh, pose(mesh), 0.0).contains(places).numpy().reshape(exact.shape)
            scores[mesh.name] = iou(found, exact)
    assert len(scores) >= 4
    # The parts of the torch overlap and are thin: twice inside is outside by parity.
    assert min(scores.values()) > 0.7 and np.mean(list(scores.values())) > 0.93


def test_windings_do_not_matter_and_lids_do() -> None:
    """A box of random windings is full; one without its top is a bowl, down to its bottom."""
    box = trimesh.creation.box((1, 1, 1)).subdivide().subdivide().subdivide()
    random = np.random.default_rng(SEED)
    faces = np.where(random.random((len(box.faces), 1)) < 0.5, box.faces, box.faces[:, ::-1])
    assert unpack(carve(box.vertices, faces)).mean() > 0.97
    top = (box.triangles_center[:, 2] > 0.49).nonzero()[0]
    assert unpack(carve(box.vertices, np.delete(box.faces, top, axis=0)))[2:-2, 2:-2, 4:].mean() < 0.02


def test_thin_parts_stay() -> None:
    """A plate of no thickness beside a ball is one cell thick where it is not inside the ball."""
    ball = trimesh.creation.icosphere(3, radius=0.5)
    plate = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    both = trimesh.util.concatenate([ball, plate])
    cells = unpack(carve(both.vertices, both.faces))
    assert cells.shape == (GRID, GRID, GRID)
    outside = np.hypot(*np.meshgrid(*[(np.arange(GRID) + 0.5) / GRID * 2 - 1] * 2, indexing="ij")) > 0.55
    thickness = cells.sum(2)[outside]
    assert (thickness > 0).mean() > 0.98 and thickness.mean() < 2.1
    assert cells.sum(2)[GRID // 2, GRID // 2] == pytest.approx(GRID, abs=2)


def test_insides_follow_the_object(meshes: list[StoredMesh], draws: Draws) -> None:
    """Stretch, mirror and turn are those of the lookup: as if the object as it is were carved."""
    scores = []
    for mesh in meshes:
        obj, front = varied(mesh, draws), draws.uniform(-180, 180)
        points = sampled(30_000)
        found = Solids().of(mesh, obj, front).contains(points).numpy()
        turned_back = points @ torch.from_numpy(turn(front)).float()
        direct = Solid(lambda obj=obj: carve(obj.vertices, obj.faces), unit_frame(0.0, obj.half))  # type: ignore[misc]
        wanted = direct.contains(turned_back).numpy()
        scores.append(iou(found, wanted))
    assert min(scores) > 0.75 and np.mean(scores) > 0.92  # the depth maps are those of another stretch


def test_insides_are_in_the_frame_of_the_cameras() -> None:
    """Points inside fall on silhouettes, and nearly all of the silhouettes have points inside."""
    source = open_meshes(objects_share=1, rig=WIDE_RIG, augment=False)
    for number in range(6):
        sample = source.training(number, 1, torch.Generator().manual_seed(SEED + number))
        assert sample.solid is not None
        points = 2.6 * torch.rand(60_000, 3, generator=torch.Generator().manual_seed(SEED)) - 1.3
        inside = points[sample.solid.contains(points)]
        pixels = sample.rig.prompt.project(inside)[0][0].long().clamp(0, 31)
        hit = torch.zeros(32, 32)
        hit[pixels[:, 1], pixels[:, 0]] = 1
        alpha = sample.prompt[..., 3]
        near = torch.nn.functional.max_pool2d(alpha[None], 3, 1, 1)[0]
        assert (near[hit > 0] > 0).all()
        wide = torch.nn.functional.max_pool2d(hit[None], 3, 1, 1)[0]
        assert (wide[alpha > 0.9] > 0).float().mean() > 0.9


def test_insides_are_kept_on_the_disk(meshes: list[StoredMesh], tmp_path: Path) -> None:
    made = kept_cells(meshes[0])
    (entry,) = (tmp_path / "cache" / "solids").iterdir()
    assert np.array_equal(made, carve(meshes[0].vertices, meshes[0].faces))
    np.savez_compressed(entry, bits=255 - made)  # told apart from one that is made again
    assert np.array_equal(kept_cells(meshes[0]), 255 - made)
    recolored = replace(meshes[0], name="other", palette=255 - meshes[0].palette)
    assert np.array_equal(kept_cells(recolored), 255 - made)  # the geometry alone counts
    entry.write_bytes(entry.read_bytes()[:100])
    assert np.array_equal(kept_cells(meshes[0]), made) and np.array_equal(kept_cells(meshes[0]), made)
    kept_cells(meshes[1])
    assert len(list(entry.parent.iterdir())) == 2


# Users' own files


def as_trimesh(mesh: StoredMesh, suffix: str) -> trimesh.Trimesh:
    vertices = mesh.vertices[:, [1, 2, 0]] if suffix == ".glb" else mesh.vertices
    image = Image.fromarray(mesh.palette[mesh.texels])
    uv = mesh.uv * [1, -1] + [0, 1]
    if suffix == ".ply":
        size = np.array(mesh.texels.shape[::-1])
        column, row = (mesh.uv * size).astype(int).clip(0, size - 1).T
        colors = mesh.palette[mesh.texels[row, column]]
        return trimesh.Trimesh(vertices, mesh.faces, process=False, vertex_colors=colors)
    kinds = {".glb": {"baseColorTexture": image}, ".obj": {"image": image}}
    make = trimesh.visual.material.PBRMaterial if suffix == ".glb" else trimesh.visual.material.SimpleMaterial
    visual = trimesh.visual.TextureVisuals(uv=uv, material=make(**kinds[suffix]))
    return trimesh.Trimesh(vertices, mesh.faces, process=False, visual=visual)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_files_look_like_the_meshes_they_were_written_from(
    meshes: list[StoredMesh], suffix: str, tmp_path: Path
) -> None:
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    cameras = orbit_cameras(torch.tensor([30.0, 200.0]), torch.tensor([20.0, -10.0]), 3.6, 36, 64, 64)
    for mesh in meshes[:3]:
        path = tmp_path / mesh.name / f"shape{suffix}"
        path.parent.mkdir()
        as_trimesh(mesh, suffix).export(path)
        read = read_file(path, "shape")
        assert read.texels.dtype == np.uint8 and len(read.palette) <= 256 and read.uv.min() >= 0 and read.uv.max() <= 1
        wanted, found = (render(pose(each), cameras, even) for each in (mesh, read))
        assert (wanted.alpha - found.alpha).abs().mean() < 0.003
        off = 0.012 if suffix == ".ply" and len(mesh.texels) > 1 else 0.006  # a colour for each vertex tells less
        assert (wanted.rgb - found.rgb).abs().mean() < off


def test_a_large_file_becomes_small(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(5)
    half = ball.vertices[:, 0] > 0
    ball.visual.vertex_colors = np.where(half[:, None], [250, 10, 10], [10, 10, 250]).astype(np.uint8)
    ball.export(tmp_path / "ball.ply")
    read = read_file(tmp_path / "ball.ply", "ball")
    assert 1000 < len(read.faces) <= 1.1 * FACES < len(ball.faces)
    even = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))
    images = render(pose(read), orbit_cameras(torch.tensor([0.0, 180.0]), torch.zeros(2), 5.0, 33.8, 32, 32), even).rgb
    assert images[0, 16, 16, 0] > 0.9 > 0.1 > images[0, 16, 16, 2] and images[1, 16, 16, 2] > 0.9


def test_a_folder_of_files_is_trained_on_without_catalogue(
    meshes: list[StoredMesh], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mine"
    for number, mesh in enumerate(meshes[:4]):
        path = folder / str(number) / f"{mesh.name}.glb"
        path.parent.mkdir(parents=True)
        as_trimesh(mesh, ".glb").export(path)
    source = open_meshes(folder, objects_share=1)
    assert len(source.trained) + len(source.measured) == 4
    sample = source.training(3, 2, torch.Generator().manual_seed(SEED))
    with caplog.at_level(logging.INFO, "liftstudio"):
        again = open_meshes(folder, objects_share=1)
    assert "objects: from the cache" in caplog.text
    assert same(sample, again.training(3, 2, torch.Generator().manual_seed(SEED)))
    as_trimesh(meshes[4], ".glb").export(folder / "more.glb")
    more = open_meshes(folder)
    assert len(more.trained) + len(more.measured) == 5


def test_files_that_cannot_be_used(meshes: list[StoredMesh], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.glb").write_text("no mesh")
    with pytest.raises(InputError, match=r"text\.glb: not a readable glb mesh"):
        open_meshes(tmp_path / "bad")
    points = trimesh.PointCloud(np.zeros((3, 3)))
    (tmp_path / "points").mkdir()
    points.export(tmp_path / "points" / "points.ply")
    with pytest.raises(InputError, match=r"points\.ply: "):
        open_meshes(tmp_path / "points")
    (tmp_path / "lost").mkdir()
    as_trimesh(meshes[0], ".obj").export(tmp_path / "lost" / "shape.obj")
    for pattern in ("*.png", "*.mtl"):
        (lost,) = (tmp_path / "lost").glob(pattern)
        lost.unlink()
        with pytest.raises(InputError, match=rf"shape\.obj: it names {lost.name}, which is not there"):
            open_meshes(tmp_path / "lost")


# Where samples come from


def test_what_a_config_opens(tmp_path: Path) -> None:
    def opened(**data: Any) -> object:
        return type(open_source(parse({"task": {"type": "toys"}, "data": data}, TrainingConfig), 1))

    assert opened() is ProceduralObjects
    assert opened(objects=str(FOLDER)) is MeshObjects
    write_capture(tmp_path / "one", SEED)
    assert opened(captures=str(tmp_path / "one"), rig={"views": [1, 2]}) is Captures


def test_the_toys_task_is_told_what_is_inside_a_mesh() -> None:
    config = parse({"task": {"type": "toys"}, "data": {"objects": str(FOLDER), "objects_share": 1}}, TrainingConfig)
    task: Any = config.task.build(config.data, torch.float32)
    generator = torch.Generator().manual_seed(SEED)
    sample = open_source(config, task.extra_views).training(0, 4, generator)
    inside = task.prepare([sample], generator)["occupancy"][0]
    size = task.config.size
    assert inside.shape == (size.grid,) * 3 and inside.dtype == torch.bool and sample.solid is not None
    axis = torch.linspace(-size.half_side, size.half_side, size.grid)
    k, j, i = inside.nonzero()[0].tolist()
    assert sample.solid.contains(torch.stack([axis[i], axis[j], axis[k]])[None]).all()
    assert 0.001 < inside.float().mean() < 0.6
