"""Normal and occlusion maps, and tangents, against surfaces whose normals and occlusion are known."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from export_shapes import position_color, read_glb
from helpers.tiny_scenes import from_trimesh
from PIL import Image
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.export import ExportConfig
from liftstudio.export.bake import Texels, projected, surface_texels
from liftstudio.export.cleanup import vertex_normals
from liftstudio.export.maps import bake_normal_map, visibility
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.tangents import vertex_tangents
from liftstudio.export.unwrap import UvMesh

SIZE = 128
QUANTUM = 2 / 255  # of a component of a mapped normal


def grid(count: int) -> tuple[Tensor, Tensor]:
    """Return x, y [count^2, 2] in [-1, 1] and the faces of a grid that looks along +z."""
    line = torch.linspace(-1, 1, count)
    points = torch.cartesian_prod(line, line)
    a = (torch.arange(count - 1)[:, None] * count + torch.arange(count - 1)).reshape(-1)
    quads = torch.stack([a, a + count, a + count + 1, a + 1], 1)
    return points, torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def height(x: Tensor, y: Tensor) -> Tensor:
    return 0.04 * torch.sin(4 * x + 1) + 0.03 * torch.cos(5 * y + 2 * x)


def slopes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    along_x = 0.16 * torch.cos(4 * x + 1) - 0.06 * torch.sin(5 * y + 2 * x)
    return along_x, -0.15 * torch.sin(5 * y + 2 * x)


def flat_and_bumpy(turn: Tensor, *, mirrored: bool) -> tuple[UvMesh, Mesh]:
    """Return a textured square of two triangles, and the height field above it, both turned."""
    corners, faces = grid(2)
    xy, fine = grid(200)
    bumpy = torch.cat([xy, height(*xy.T)[:, None]], 1)
    uv = 0.5 + 0.45 * corners * torch.tensor([-1.0 if mirrored else 1.0, 1.0])
    plane = Mesh(F.pad(corners, (0, 1)) @ turn.T, faces)
    return UvMesh(plane, torch.arange(4), uv, 1, 4), Mesh(bumpy @ turn.T, fine)


def shown(uv_mesh: UvMesh, normals: Tensor, tangents: Tensor, image: np.ndarray, texels: Texels) -> Tensor:
    """Return the normals that glTF's formula gives at the texels."""
    frame = torch.cat([tangents[:, :3], tangents[:, 3:] * torch.linalg.cross(normals, tangents[:, :3]), normals], 1)
    plain = surface_texels(dataclasses.replace(uv_mesh, mesh=Mesh(frame[:, :3], uv_mesh.mesh.faces)), normals, SIZE)
    local = torch.from_numpy(image.reshape(-1, 3)[texels.pixel]).float() / 255 * 2 - 1
    bitangents = frame[0, 3:6]  # all of a plane are alike
    return F.normalize(local[:, :1] * plain.points + local[:, 1:2] * bitangents + local[:, 2:] * plain.normals, dim=-1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_normal_map_of_a_height_field(mirrored: bool) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turn = turn * turn.det().sign()
    uv_mesh, bumpy = flat_and_bumpy(turn, mirrored=mirrored)
    normals = vertex_normals(uv_mesh.mesh)
    tangents = vertex_tangents(uv_mesh.mesh, normals, uv_mesh.uv)
    flat = surface_texels(uv_mesh, normals, SIZE)
    points, found = projected(flat.points, flat.normals, bumpy)
    image = bake_normal_map(uv_mesh, normals, tangents, dataclasses.replace(flat, points=points, normals=found))

    side = -1.0 if mirrored else 1.0
    torch.testing.assert_close(tangents[:, :3], (side * turn[:, 0]).expand(4, 3), atol=1e-5, rtol=0)
    assert (tangents[:, 3] == side).all()
    x, y = (flat.points @ turn)[:, :2].T
    along_x, along_y = slopes(x, y)
    # In the picture: red to the right, where u grows; green to the top.
    wanted = F.normalize(torch.stack([-side * along_x, -along_y, torch.ones_like(x)], 1), dim=-1)
    local = torch.from_numpy(image.reshape(-1, 3)[flat.pixel]).float() / 255 * 2 - 1
    assert (local - wanted).abs().max() < 0.5 * QUANTUM + 0.004  # the normals of 200 x 200 vertices
    world = shown(uv_mesh, normals, tangents, image, flat)
    truth = F.normalize(torch.stack([-along_x, -along_y, torch.ones_like(x)], 1), dim=-1) @ turn.T
    angles = torch.rad2deg(torch.acos((world * truth).sum(-1).clamp(-1, 1)))
    assert angles.max() < 0.6


def test_tangents_of_a_sphere_are_perpendicular_and_along_u() -> None:
    sphere = from_trimesh(trimesh.creation.icosphere(4))
    keep = (sphere.corners()[..., 2].abs() < 0.9).all(1) & (sphere.corners()[..., 0] > -0.2).all(1)
    mesh = Mesh(sphere.vertices, sphere.faces[keep])
    x, y, z = mesh.vertices.unbind(1)
    uv = torch.stack([0.5 + torch.atan2(y, x) / 6.5, 0.5 + 0.4 * z], 1)
    tangents = vertex_tangents(mesh, mesh.vertices, uv)[mesh.faces.unique()]
    used = mesh.vertices[mesh.faces.unique()]
    east = F.normalize(torch.stack([-used[:, 1], used[:, 0], torch.zeros(len(used))], 1), dim=-1)
    assert (tangents[:, :3] * used).sum(-1).abs().max() < 1e-5
    # Except at the border, whose fans are one-sided, symmetric faces leave an error of second order in their size.
    inner = used[:, 2].abs() < 0.75
    assert (tangents[:, :3] * east).sum(-1)[inner].min() > np.cos(np.radians(4))
    assert (tangents[:, 3] == 1).all()


def bumpy_ball() -> Mesh:
    ball = from_trimesh(trimesh.creation.icosphere(5))
    x, y, z = ball.vertices.unbind(1)
    radius = 0.7 + 0.02 * torch.sin(9 * x + 1) * torch.sin(8 * y) * torch.sin(9 * z)
    return Mesh(ball.vertices * radius[:, None], ball.faces)


def image_of(tree: dict, values: dict, name: str) -> np.ndarray:
    index = tree["textures"][tree["materials"][0][name]["index"]]["source"]
    return np.asarray(Image.open(io.BytesIO(values[f"image{index}"].tobytes())))


def test_a_coarse_glb_shows_the_normals_of_the_full_surface(tmp_path: Path) -> None:
    full = bumpy_ball()
    config = ExportConfig(texture_size=512, target_faces=600, normal_map=True)
    export_mesh(full, position_color, tmp_path, config)
    tree, values = read_glb(tmp_path / "mesh.glb")
    image = image_of(tree, values, "normalTexture")
    faces = values["indices"].reshape(-1, 3)
    generator = np.random.default_rng(0)
    face = generator.integers(len(faces), size=4000)
    weights = generator.dirichlet([2, 2, 2], len(face))[:, :, None]

    def at(name: str) -> np.ndarray:
        return (values[name][faces[face]] * weights).sum(1)

    normal, tangent = at("NORMAL"), at("TANGENT")
    bitangents = values["TANGENT"][:, 3:] * np.cross(values["NORMAL"], values["TANGENT"][:, :3])
    bitangent = (bitangents[faces[face]] * weights).sum(1)
    column, row = (at("TEXCOORD_0") * 512).astype(int).T
    local = image[row, column] / 255 * 2 - 1
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (tangent[:, :3], bitangent, normal)]
    mapped = sum(local[:, [i]] * unit[i] for i in range(3))
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)

    back = lambda v: torch.from_numpy(v[:, [0, 2, 1]] * [1, -1, 1]).float()  # noqa: E731  to z up
    truth = projected(back(at("POSITION")), back(unit[2]), full)[1]
    errors = [torch.rad2deg(torch.acos((back(n) * truth).sum(-1).clamp(-1, 1))) for n in (mapped, unit[2])]
    assert errors[0].mean() < 1.0 and errors[0].quantile(0.99) < 4.0  # a texel is half a degree wide
    assert errors[1].mean() > 3 * errors[0].mean()  # what the coarse surface shows without the map


def test_visibility_of_known_surroundings() -> None:
    ball = from_trimesh(trimesh.creation.icosphere(4))
    assert visibility(ball, ball.vertices, ball.vertices).min() > 0.97  # nothing hides anything
    # A floor and a wall, which is high against the distance of the points: it hides half of what they see.
    floor, wall = (trimesh.creation.box([8, 8, 0.2]), trimesh.creation.box([0.2, 8, 8]))
    corner = from_trimesh(trimesh.util.concatenate([floor, wall.apply_translation([-4, 0, 4])]))
    near = torch.tensor([[-3.8, y, 0.1] for y in (-0.5, 0.0, 0.5)])
    far = torch.tensor([[3.5, 0.0, 0.1]])
    up = torch.tensor([[0.0, 0, 1]])
    assert (visibility(corner, near, up.expand(3, 3)) - 0.5).abs().max() < 0.06
    # Seen from d = 7.4 away a wall of height 8 and half width 4, centred: exact by the form factor of a rectangle.
    d, h, w = 7.4, 7.9, 4.0
    hidden = (np.arctan(w / d) - d / np.hypot(d, h) * np.arctan(w / np.hypot(d, h))) / np.pi
    assert float(visibility(corner, far, up)) == pytest.approx(1 - hidden, abs=0.03)


def test_the_occlusion_map_is_in_the_red_channel(tmp_path: Path) -> None:
    config = ExportConfig(texture_size=128, target_faces=600, occlusion_map=True)
    export_mesh(bumpy_ball(), position_color, tmp_path, config)
    image = image_of(*read_glb(tmp_path / "mesh.glb"), "occlusionTexture")
    assert image.shape == (128, 128, 3)
    assert 0.8 < image[..., 0].mean() / 255 <= 1
