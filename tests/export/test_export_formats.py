"""STL, 3MF and USDZ, read back by other means than they were written; size, origin and axes of all formats."""

import dataclasses
import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import trimesh
from export_shapes import lopsided, position_color, read_glb
from PIL import Image

from liftstudio.core.errors import InputError
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export import ExportConfig, check_export
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.placement import placements, read_in_world, reported_placement

Usd = pytest.importorskip("pxr.Usd", reason="USDZ needs usd-core (the usd extra)")
from pxr import UsdGeom, UsdShade, UsdValidation  # noqa: E402

CONFIG = ExportConfig(
    formats=["glb", "obj", "ply", "stl", "3mf", "usdz"], texture_size=256, longest_side_mm=120.0, origin="bottom"
)
CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
MATERIAL = "{http://schemas.microsoft.com/3dmanufacturing/material/2015/02}"


@dataclasses.dataclass
class Read:
    """A mesh of a file, turned to z up: corners [F, 3, 3], st [F, 3, 2] (up) and image, or corner colours [F, 3, 3]."""

    corners: np.ndarray
    st: np.ndarray | None = None
    image: np.ndarray | None = None
    colors: np.ndarray | None = None


def read_3mf(path: Path) -> Read:
    with zipfile.ZipFile(path) as package:
        assert package.testzip() is None
        assert {"[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"} <= set(package.namelist())
        model = ElementTree.fromstring(package.read("3D/3dmodel.model"))
        assert model.get("unit") == "millimeter"
        mesh = model.find(f".//{CORE}mesh")
        vertices = np.array([[float(v.get(k)) for k in "xyz"] for v in mesh.iter(f"{CORE}vertex")])
        triangles = list(mesh.iter(f"{CORE}triangle"))
        faces, properties = (np.array([[int(t.get(key + n)) for n in "123"] for t in triangles]) for key in ("v", "p"))
        read = Read(vertices[faces])
        texture = model.find(f".//{MATERIAL}texture2d")
        if texture is None:
            hexes = [c.get("color") for c in model.iter(f"{MATERIAL}color")]
            read.colors = np.array([[int(h[i : i + 2], 16) / 255 for i in (1, 3, 5)] for h in hexes])[properties]
            return read
        group = model.find(f".//{MATERIAL}texture2dgroup")
        assert group.get("texid") == texture.get("id")
        assert {t.get("pid") for t in triangles} == {group.get("id")}
        assert texture.get("path") in package.read("3D/_rels/3dmodel.model.rels").decode()
        read.st = np.array([[float(c.get("u")), float(c.get("v"))] for c in group])[properties]
        read.image = np.asarray(Image.open(io.BytesIO(package.read(texture.get("path")[1:]))))
    return read


def read_usdz(path: Path) -> Read:
    with zipfile.ZipFile(path) as package:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in package.infolist())  # by the USDZ specification
        images = {Path(n).stem: package.read(n) for n in package.namelist() if not n.endswith(".usdc")}
        for info in package.infolist():
            name, extra = np.frombuffer(path.read_bytes()[info.header_offset + 26 :][:4], "<u2")
            assert (info.header_offset + 30 + int(name) + int(extra)) % 64 == 0
    stage = Usd.Stage.Open(str(path))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert not [error.GetMessage() for error in UsdValidation.ValidationContext(validators).Validate(stage)]
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    (prim,) = [p for p in stage.Traverse() if p.IsA(UsdGeom.Mesh)]
    mesh, primvars = UsdGeom.Mesh(prim), UsdGeom.PrimvarsAPI(prim)
    points = np.array(mesh.GetPointsAttr().Get(), float)
    if UsdGeom.GetStageUpAxis(stage) == "Y":
        points = points[:, [0, 2, 1]] * [1, -1, 1]
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    material, _ = UsdShade.MaterialBindingAPI(prim).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    assert (surface.GetInput("roughness").Get(), surface.GetInput("metallic").Get()) == (1.0, 0.0)
    read = Read(points[faces])
    if primvars.HasPrimvar("st"):
        read.st = np.array(primvars.GetPrimvar("st").ComputeFlattened()).reshape(-1, 3, 2)
        read.image = np.asarray(Image.open(io.BytesIO(images["color"])))
    else:
        read.colors = np.array(primvars.GetPrimvar("displayColor").Get())[faces]
    return read


def read_stl(path: Path) -> Read:
    return Read(np.asarray(trimesh.load_mesh(path, process=False).triangles))


READERS = {"stl": read_stl, "3mf": read_3mf, "usdz": read_usdz}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_mesh(lopsided(), position_color, folder, CONFIG)
    return folder


@pytest.mark.parametrize("form", list(READERS))
def test_geometry_and_colour_are_those_of_the_surface(exported: Path, form: str) -> None:
    read = READERS[form](exported / f"mesh.{form}")
    placement = placements(lopsided(), CONFIG)[form]
    world = read.corners / placement.scale + placement.origin
    surface = trimesh.Trimesh(lopsided().vertices.numpy(), lopsided().faces.numpy(), process=False)
    np.testing.assert_allclose(world, surface.triangles, atol=2e-6)
    if read.st is not None:
        rows = (1 - read.st[..., 1]) * 256 - 0.5
        columns = read.st[..., 0] * 256 - 0.5
        found = read.image[rows.round().astype(int), columns.round().astype(int)] / 255
        wanted = position_color(torch.from_numpy(world)).numpy()
        assert np.abs(found - wanted).max() < 0.02  # a texel is about 0.012 wide, half of that in colour


def test_sizes_are_real_and_the_object_stands_on_the_origin(exported: Path) -> None:
    for form, unit in {"glb": 1e-3, "obj": 1e-3, "ply": 1e-3, "stl": 1.0, "3mf": 1.0, "usdz": 1e-3}.items():
        path = exported / f"mesh.{form}"
        points = (
            READERS[form](path).corners.reshape(-1, 3) if form in READERS else read_mesh(path).vertices.double().numpy()
        )
        low, high = points.min(0), points.max(0)
        assert (high - low).max() == pytest.approx(120 * unit, rel=1e-5), form
        np.testing.assert_allclose([*(low + high)[:2] / 2, low[2]], 0, atol=1e-4 * unit, err_msg=form)
    closed = trimesh.load_mesh(exported / "mesh.stl")  # which shares no vertices: merged by position
    assert closed.is_watertight and closed.volume > 0


def test_up_and_origin_turn_and_shift_the_files(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, formats=["obj", "stl", "usdz", "glb"], up="y", origin="center")
    report = export_mesh(lopsided(), position_color, tmp_path, config)
    assert report["up_axis"] == {"obj": "y", "stl": "y", "usdz": "y", "glb": "y"}
    placed = placements(lopsided(), config)
    for form in ("obj", "stl"):
        back = placed[form].to_world(read_mesh(tmp_path / f"mesh.{form}"))
        np.testing.assert_allclose(back.vertices.amax(0), lopsided().vertices.amax(0), atol=2e-6)
        np.testing.assert_allclose(back.vertices.amin(0), lopsided().vertices.amin(0), atol=2e-6)
        assert trimesh.load_mesh(tmp_path / f"mesh.{form}").volume > 0
    np.testing.assert_allclose(read_usdz(tmp_path / "mesh.usdz").corners.reshape(-1, 3).mean(0), 0, atol=0.02)


def test_the_bytes_repeat(exported: Path, tmp_path: Path) -> None:
    export_mesh(lopsided(), position_color, tmp_path, CONFIG)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (exported / path.name).read_bytes(), path.name


@pytest.mark.parametrize("form", ["3mf", "usdz", "obj", "glb", "ply"])
def test_colours_at_the_vertices(tmp_path: Path, form: str) -> None:
    config = ExportConfig(formats=[form], color="vertices")
    report = export_mesh(lopsided(), position_color, tmp_path, config)
    assert list(report["files"]) == [f"mesh.{form}"] and "charts" not in report
    if form in READERS:
        read = READERS[form](tmp_path / f"mesh.{form}")
        corners, colors = read.corners, read.colors
    elif form == "glb":
        tree, values = read_glb(tmp_path / "mesh.glb")
        corners, colors = (values[name][values["indices"]].reshape(-1, 3, 3) for name in ("POSITION", "COLOR_0"))
        corners = corners[..., [0, 2, 1]] * [1, -1, 1]
        assert tree["materials"][0]["pbrMetallicRoughness"] == {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    else:
        mesh = trimesh.load_mesh(tmp_path / f"mesh.{form}", process=False)
        corners, colors = (np.asarray(each)[mesh.faces] for each in (mesh.vertices, mesh.visual.vertex_colors / 255))
        colors = colors[..., :3]
    if form in ("usdz", "glb"):  # linear
        colors = np.where(colors <= 0.0031308, 12.92 * colors, 1.055 * colors ** (1 / 2.4) - 0.055)
    wanted = position_color(torch.from_numpy(corners)).numpy()
    assert np.abs(colors - wanted).max() < 0.5 / 255 + 1e-4


def test_usdz_without_its_package_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"export\.formats: usdz needs the usd extra.*liftstudio\[usd\]"):
        check_export(ExportConfig(formats=["usdz"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": [500, 500]}, r"export\.faces: expected the finest level first, got 500, 500"),
        ({"faces": [3]}, r"export\.faces\[0\]: expected 4 or more"),
        ({"longest_side_mm": -1.0}, r"export\.longest_side_mm: expected 0 or more"),
        ({"color": "vertices", "normal_map": True}, r"export\.normal_map: needs export\.color=texture"),
        ({"color": "vertices", "occlusion_map": True}, r"export\.occlusion_map: needs"),
    ],
)
def test_contradictions_are_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_export(dataclasses.replace(ExportConfig(), **change))


def test_levels_of_detail_have_their_own_files_and_textures(tmp_path: Path) -> None:
    config = ExportConfig(faces=[1000, 300, 100], texture_size=256, longest_side_mm=100.0, origin="bottom")
    report = export_mesh(lopsided(), position_color, tmp_path, config)
    assert list(report["files"]) == ["mesh.glb", "mesh_1.glb", "mesh_2.glb"]
    assert report["faces"] == pytest.approx(1000, rel=0.02)
    assert [level["faces"] for level in report["levels"]] == [
        pytest.approx(300, rel=0.02),
        pytest.approx(100, rel=0.03),
    ]
    assert all(level["watertight"] and level["charts"] for level in report["levels"])
    placed = reported_placement(report, "glb")
    full = trimesh.Trimesh(lopsided().vertices.numpy(), lopsided().faces.numpy(), process=False)
    for level in range(3):
        path = tmp_path / ("mesh.glb" if level == 0 else f"mesh_{level}.glb")
        surface = read_in_world(path, placed)  # all levels lie in one place
        np.testing.assert_allclose(surface.vertices.aminmax(dim=0)[1], full.bounds[1], atol=0.06)
        _, values = read_glb(path)
        image = np.asarray(Image.open(io.BytesIO(values["image0"].tobytes()))) / 255
        corners = values["indices"].reshape(-1, 3)
        columns, rows = (values["TEXCOORD_0"][corners].mean(1) * 256).astype(int).T
        middles = values["POSITION"][corners].mean(1)[:, [0, 2, 1]] * [1, -1, 1] / placed.scale + placed.origin
        nearest = full.vertices[np.linalg.norm(full.vertices[None] - middles[:, None], axis=-1).argmin(1)]
        # The colour is that of the full surface, not of the flat face that stands for it.
        error = np.abs(image[rows, columns] - position_color(torch.from_numpy(nearest)).numpy())
        assert np.median(error) < 0.02 and error.mean() < 0.03


@pytest.mark.parametrize(("texture_format", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8"), ("webp", b"RIFF")])
def test_texture_formats(tmp_path: Path, texture_format: str, magic: bytes) -> None:
    config = ExportConfig(
        formats=["glb", "obj", "usdz", "3mf"], texture_size=256, texture_format=texture_format, normal_map=True
    )
    files = export_mesh(lopsided(), position_color, tmp_path, config)["files"]
    tree, values = read_glb(tmp_path / "mesh.glb")
    textures = [texture.get("extensions", {}).get("EXT_texture_webp", texture) for texture in tree["textures"]]
    assert values[f"image{textures[0]['source']}"].tobytes().startswith(magic)
    assert tree["images"][0]["mimeType"] == f"image/{texture_format}"
    assert ("EXT_texture_webp" in tree.get("extensionsRequired", [])) == (texture_format == "webp")
    other = "jpeg" if texture_format == "jpeg" else "png"  # formats that may not contain WebP
    assert {f"mesh.{other}", "mesh_normal.png"} < set(files)
    plain = read_usdz(tmp_path / "mesh.usdz"), read_3mf(tmp_path / "mesh.3mf")
    reference = np.asarray(Image.open(tmp_path / f"mesh.{other}")).astype(float)
    for image in [read.image for read in plain] + [Image.open(io.BytesIO(values["image0"].tobytes()))]:
        assert np.abs(np.asarray(image) - reference).mean() < 2  # levels; of lossy formats
    lines = dict(line.split(maxsplit=1) for line in (tmp_path / "mesh.mtl").read_text().splitlines())
    assert lines["map_Kd"] == f"mesh.{other}" and lines["norm"] == "mesh_normal.png"
    assert (float(lines["Pr"]), float(lines["Pm"])) == (1.0, 0.0)
    assert trimesh.load_mesh(tmp_path / "mesh.glb", process=False).visual.material.normalTexture.size == (256, 256)
