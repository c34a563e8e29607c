"""`rendering.render` in vectorised torch: the reference for tests and the benchmark."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.ops.rasterization import fragments, rasterize
from liftstudio.synthetic import reference
from liftstudio.synthetic.rendering import ObjectRender
from liftstudio.training.meshes.posing import MeshObject
from liftstudio.training.meshes.rendering import SAMPLES, Lighting


def render(obj: MeshObject, cameras: Cameras, lighting: Lighting) -> ObjectRender:
    """See `rendering.render`."""
    fine = cameras.resized(cameras.height * SAMPLES, cameras.width * SAMPLES)
    vertices, faces = torch.from_numpy(obj.vertices), torch.from_numpy(obj.faces).long()
    clip = fine.clip(vertices)
    seen = fragments(clip, faces, rasterize(clip, faces, fine.height, fine.width))
    corners = vertices.double()[faces][seen.face]
    values = (torch.from_numpy(obj.normals)[seen.face], torch.from_numpy(obj.uv)[faces][seen.face])
    shares = seen.barycentric[..., None].double()
    points, normals, uv = ((shares * each.double()).sum(1) for each in (corners, *values))
    camera = seen.pixel // (fine.height * fine.width)
    rays = points - fine.centers.double()[camera]
    facing = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    turned_away = (facing * rays).sum(-1, keepdim=True) > 0
    normals = F.normalize(torch.where(turned_away, -normals, normals), dim=-1)
    color = (albedo(obj, points, uv) * radiance(lighting, normals)).clamp_max(1)
    depth = (rays * fine.forward[camera]).sum(-1, keepdim=True)
    return reference.averaged(color, depth, seen, SAMPLES)


def albedo(obj: MeshObject, points: Tensor, uv: Tensor) -> Tensor:
    """Return sRGB [N, 3] in [0, 1] at world points [N, 3] with texture coordinates [N, 2], all float64."""
    first, second = (look_up(torch.from_numpy(texture), uv) for texture in obj.textures)
    overlay = obj.overlay
    frame = torch.from_numpy(overlay.frame)
    local = points @ frame[:, :3].T + frame[:, 3]
    settings = (torch.full((len(points),), value, dtype=torch.float64) for value in (overlay.count, overlay.shift))
    return torch.lerp(first, second, reference.share(overlay.pattern, local, *settings)[:, None])


def look_up(texture: Tensor, uv: Tensor) -> Tensor:
    """Look up [N, 3] float64 in [0, 1] in a texture [h, w, 3] uint8: bilinear, or nearest if it has a single row."""
    image = texture.double().permute(2, 0, 1)[None] / 255
    mode = "nearest" if len(texture) == 1 else "bilinear"
    grid = (2 * uv - 1)[None, None].clamp(-1 + 1e-9, 1 - 1e-9)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)[0, :, 0].T


def radiance(lighting: Lighting, normals: Tensor) -> Tensor:
    """Return the light [N, 3] on surfaces with unit normals [N, 3]."""
    ambient, directions, diffuse = (
        torch.from_numpy(part) for part in (lighting.ambient, lighting.directions, lighting.diffuse)
    )
    return ambient + (0.5 + 0.5 * normals @ directions.T).square() @ diffuse
