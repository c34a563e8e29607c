"""`rendering.render` in vectorised torch: the reference for tests and the benchmark."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.ops.rasterization import Fragments, fragments, rasterize, scatter_image
from liftstudio.synthetic.assembly import TexturedObject
from liftstudio.synthetic.rendering import ObjectRender
from liftstudio.synthetic.textures import Pattern


def render(obj: TexturedObject, cameras: Cameras, *, shaded: bool = True, supersampling: int = 2) -> ObjectRender:
    """See `rendering.render`."""
    fine = cameras.resized(cameras.height * supersampling, cameras.width * supersampling)
    faces = torch.from_numpy(obj.faces).long()
    clip = fine.clip(torch.from_numpy(obj.vertices))
    seen = fragments(clip, faces, rasterize(clip, faces, fine.height, fine.width))
    corners = torch.from_numpy(obj.vertices)[faces][seen.face]
    normals = torch.from_numpy(obj.normals)[seen.face]
    points, normals = (
        (seen.barycentric[..., None].double() * attribute.double()).sum(1) for attribute in (corners, normals)
    )
    color = albedo(obj, points, torch.from_numpy(obj.part).long()[seen.face])
    if shaded:
        color = (color * _radiance(obj, normals)).clamp_max(1)
    camera = seen.pixel // (fine.height * fine.width)
    depth = ((points - fine.centers[camera]) * fine.forward[camera]).sum(-1, keepdim=True)
    return averaged(color, depth, seen, supersampling)


def averaged(color: Tensor, depth: Tensor, seen: Fragments, samples: int) -> ObjectRender:
    """Average samples of colour [P, 3] over white and take the nearest depth [P, 1]; samples: per pixel and axis."""
    images = scatter_image(torch.cat([color, torch.ones_like(depth)], dim=-1), seen)
    rgb, alpha = _pooled(images, samples).split([3, 1], dim=-1)
    nearest = -F.max_pool2d(-scatter_image(depth, seen, torch.inf).permute(0, 3, 1, 2), samples)
    nearest = torch.where(nearest.isfinite(), nearest, 0).permute(0, 2, 3, 1)
    return ObjectRender((rgb + 1 - alpha).float(), alpha.float(), nearest.float())


def albedo(obj: TexturedObject, points: Tensor, part: Tensor) -> Tensor:
    """Return the sRGB albedo [N, 3] in [0, 1] at world points [N, 3] (float64) on parts [N]."""
    frames, settings = torch.from_numpy(obj.frames)[part], torch.from_numpy(obj.settings)[part]
    local = torch.einsum("nij,nj->ni", frames[..., :3], points) + frames[..., 3]
    patterns, shares = torch.from_numpy(obj.patterns)[part], torch.zeros(len(points), dtype=torch.float64)
    for pattern in Pattern:
        chosen = patterns == pattern
        shares[chosen] = share(pattern, local[chosen], *settings[chosen].T)
    first, second = torch.from_numpy(obj.colors)[part].unbind(1)
    return torch.lerp(first, second, shares[:, None])


def share(pattern: Pattern, local: Tensor, count: Tensor, shift: Tensor) -> Tensor:
    """Return the share [N] of the second colour at part coordinates [N, 3], all float64."""
    u, v, w = local.unbind(-1)
    cells = 0.5 * local * count[:, None]
    if pattern == Pattern.STRIPES:
        return torch.floor(0.5 * (w.clamp(-0.9999, 0.9999) + 1) * count) % 2
    if pattern == Pattern.GRADIENT:
        return (0.5 * (w + 1)).clamp(0, 1)
    if pattern == Pattern.HALVES:
        return (w > shift).double()
    if pattern == Pattern.CHECKS:
        return torch.floor(cells).sum(-1) % 2
    if pattern == Pattern.SPOTS:
        return ((cells - torch.floor(cells) - 0.5).norm(dim=-1) < shift).double()
    if pattern == Pattern.WAVES:
        bend = 0.35 * torch.sin(2.5 * u + shift) + 0.35 * torch.sin(2.5 * v + 2 * shift)
        return 0.5 + 0.5 * torch.sin(0.5 * torch.pi * count * (w + bend))
    return torch.zeros_like(w)


def _radiance(obj: TexturedObject, normals: Tensor) -> Tensor:
    facing = F.normalize(normals, dim=-1) @ torch.tensor(obj.light.direction, dtype=torch.float64)
    return (obj.light.ambient + obj.light.diffuse * (0.5 + 0.5 * facing) ** 2)[:, None]


def _pooled(images: Tensor, samples: int) -> Tensor:
    return F.avg_pool2d(images.permute(0, 3, 1, 2), samples).permute(0, 2, 3, 1)
