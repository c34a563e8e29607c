"""Losses and regularisers: pure, differentiable functions from tensors to scalars.

Images are [B, H, W, C] float, masks [B, H, W, 1] float in [0, 1]. Every function returns the mean over the pixels (or
points, rays, edges) that count, weighted by the mask if there is one. Its magnitude therefore depends neither on the
resolution nor on how much of the image the object covers; it is 0 if nothing counts. Gradients are finite everywhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.metrics.images import ssim
from liftstudio.ops.edges import edge_adjacency

_TINY = 1e-12


def rgb(rgb: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error per channel of images [B, H, W, 3], over all pixels or weighted by `mask`."""
    return _mean((rgb - target).square(), mask)


def one_minus_ssim(rgb: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM in [0, 2] of images [B, H, W, 3] in [0, 1] (Wang et al. 2004; see `metrics.images.ssim`)."""
    return 1.0 - ssim(rgb, target).mean()


def mask(opacity: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the rendered opacity [B, H, W, 1] against the true mask."""
    return _mean((opacity - mask).square())


def mono_normal(normal: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - n . n_mono in [0, 2] over the foreground (SV3D, sec. 4, "normal").

    normal, target: [B, H, W, 3] unit normals in the same axes (both world or both camera).
    """
    return _mean(1.0 - (normal * target).sum(dim=-1, keepdim=True), mask)


def mono_depth(depth: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - Pearson correlation in [0, 2] of the depths of each image's foreground; mean over images with a foreground.

    Invariant to the scale (> 0) and shift that a monocular estimate leaves open. Gradients flow to `depth` only.

    depth: [B, H, W, 1] world units, of order 1 (a standard deviation below 0.001 counts as flat: no correlation).
    target: [B, H, W, 1] any unit, increasing with distance (negate a disparity).
    """
    weights = mask / mask.sum(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY)
    depth, target = _centered(depth, weights), _centered(target.detach(), weights)
    deviation = _image_sum(weights * depth.square()).add(1e-6).sqrt()
    target_deviation = _image_sum(weights * target.square()).sqrt().clamp_min(_TINY)
    correlation = _image_sum(weights * depth * target) / (deviation * target_deviation)
    return _mean(1.0 - correlation, (mask.amax(dim=(1, 2, 3), keepdim=True) > 0).to(mask))


def depth_smoothness(depth: Tensor, mask: Tensor, camera_distance: Tensor | float) -> Tensor:
    """(d(i,j) - d(i,j+1))^2 + (d(i,j) - d(i+1,j))^2 over the foreground, each term a mean over its pairs of pixels.

    RegNeRF (Niemeyer et al. 2022), "depth smoothness"; d is the depth divided by the camera's distance, hence unitless.

    depth: [B, H, W, 1] world units. camera_distance: [B] or a number, world units, > 0.
    """
    relative = depth / torch.as_tensor(camera_distance).to(depth).view(-1, 1, 1, 1)
    terms = [_mean(relative.diff(dim=dim).square(), _pairs(mask, dim)) for dim in (1, 2)]
    return terms[0] + terms[1]


def bilateral_normal(normal: Tensor, image: Tensor, mask: Tensor, *, printed: bool = False) -> Tensor:
    """exp(-3 |grad I|) (sqrt(1 + |grad n|^2) - 1): flat normals where the image is flat (SV3D, sec. 4, "bilateral").

    Gradients are Sobel derivatives per pixel; |grad I| is the mean over the channels of each channel's gradient length,
    |grad n| is the norm over channels and directions. A pixel's weight is the minimum of the mask in its 3x3
    neighbourhood; pixels on the image's border do not count.

    normal: [B, H, W, 3] unit. image: [B, H, W, 3] target in [0, 1]; no gradient flows to it.
    printed: use the paper's exp(-3 |grad I|) sqrt(1 + |grad n|) instead, which is least, but not 0, at flat normals and
        has a kink there.
    """
    contrast = _sobel(image.detach()).square().sum(dim=0).sqrt().mean(dim=-1, keepdim=True)
    bending = _sobel(normal).square().sum(dim=0).sum(dim=-1, keepdim=True)
    bent = torch.sqrt(1.0 + torch.sqrt(bending + _TINY)) if printed else torch.sqrt(1.0 + bending) - 1.0
    inside = -F.max_pool2d(-mask.permute(0, 3, 1, 2), kernel_size=3, stride=1).permute(0, 2, 3, 1)
    return _mean(torch.exp(-3.0 * contrast) * bent, inside)


def albedo_smoothness(albedo: Tensor, perturbed: Tensor) -> Tensor:
    """(c(x) - c(x + e))^2 per channel (SV3D, sec. 4, "albedo").

    albedo, perturbed: [N, 3] in [0, 1], the albedo at surface points x and near them (e ~ N(0, 0.01^2) world units).
    """
    return _mean((albedo - perturbed).square())


def normal_smoothness(normal: Tensor, perturbed: Tensor) -> Tensor:
    """|n(x) - n(x + e)|^2 in [0, 4] of unit normals at surface points and near them, each [N, 3].

    The smoothness term of UNISURF (Oechsle et al. 2021), squared.
    """
    return _mean((normal - perturbed).square().sum(dim=-1))


def illumination(irradiance: Tensor, target: Tensor, mask: Tensor, *, printed: bool = False) -> Tensor:
    """|V(I) - L / k|^2 over the foreground, V = max(r, g, b): light explains the brightness (SV3D, sec. 4, "illum").

    k, the factor of the best fit, is not in the paper. Without it dark objects lower the light and raise the albedo,
    although images do not determine the scale of one relative to the other.

    irradiance: [B, H, W, 1] >= 0. target: [B, H, W, 3] reference image in [0, 1].
    printed: use the paper's |V(I) - L|^2 instead, k = 1.
    """
    brightness = target.amax(dim=-1, keepdim=True)
    light = torch.where(mask > 0, irradiance, 0.0)
    if not printed:  # 1 / k
        light = light * (mask * light * brightness).sum() / (mask * light.square()).sum().clamp_min(_TINY)
    return _mean((brightness - light).square(), mask)


def opaque(opacity: Tensor) -> Tensor:
    """Binary entropy of the opacity [B, H, W, 1] in nats, in [0, log 2]: pushes the opacity of each ray to 0 or 1.

    Opacities within 0.001 of 0 or 1 are clamped there and get no gradient.
    """
    o = opacity.clamp(1e-3, 1.0 - 1e-3)
    return _mean(-(o * o.log() + (1.0 - o) * (1.0 - o).log()))


def sparsity(opacity: Tensor) -> Tensor:
    """Mean of the opacity [B, H, W, 1]: removes density that no image requires."""
    return _mean(opacity)


def distortion(per_ray: Tensor) -> Tensor:
    """Mean of the distortion per ray [R] (Mip-NeRF 360, eq. 15), as `ops.compositing` computes it."""
    return _mean(per_ray)


def orientation(facing_away: Tensor, opacity: Tensor) -> Tensor:
    """Penalty for normals facing away from the camera (Ref-NeRF, Verbin et al. 2022, eq. 11), over rays with opacity.

    facing_away: [B, H, W, 1] sum over a ray's samples of w max(0, n . d)^2; d is the ray's direction, w the sample's
        compositing weight, through which no gradient flows.
    opacity: [B, H, W, 1].
    """
    return _mean(facing_away, (opacity.detach() > 0).to(facing_away))


def eikonal(gradient: Tensor) -> Tensor:
    """(|grad f| - 1)^2 of SDF gradients [N, 3] (Gropp et al. 2020, eq. 2); its gradient is 0 where grad f = 0."""
    return _mean((torch.linalg.vector_norm(gradient, dim=-1) - 1.0).square())


def mesh_laplacian(mesh: Mesh) -> Tensor:
    """Squared distance (world units) of a vertex from the mean of its neighbours: the uniform Laplacian.

    Sorkine et al. 2004. Vertices without edges do not count.
    """
    a, b = edge_adjacency(mesh.faces, len(mesh.vertices)).vertices.unbind(1)
    ends, others = torch.cat([a, b]), torch.cat([b, a])
    degree = torch.bincount(ends, minlength=len(mesh.vertices)).to(mesh.vertices)[:, None]
    total = torch.zeros_like(mesh.vertices).index_add(0, ends, mesh.vertices[others])
    offset = total / degree.clamp_min(1) - mesh.vertices
    return _mean(offset.square().sum(dim=-1, keepdim=True), (degree > 0).to(degree))


def mesh_normal_consistency(mesh: Mesh) -> Tensor:
    """1 - cosine between the normals of faces that share an edge, in [0, 2]; boundary edges do not count.

    Slivers (height below 0.001 of the longest side) have no usable normal; their edges do not count either.
    """
    normals, usable = _usable_normals(mesh)
    a, b = edge_adjacency(mesh.faces, len(mesh.vertices)).faces.unbind(1)
    weights = (b >= 0) & usable[a] & usable[b]
    return _mean((1.0 - (normals[a] * normals[b]).sum(dim=-1))[weights])


def _usable_normals(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Return unit normals [F, 3], zero for slivers, and whether each face is not a sliver [F]."""
    areas = mesh.face_area_vectors()
    corners = mesh.corners().detach()
    longest = (corners - corners.roll(1, dims=1)).square().sum(dim=-1).amax(dim=1)  # squared
    usable = 2.0 * areas.detach().norm(dim=-1) > 1e-3 * longest
    return F.normalize(torch.where(usable[:, None], areas, 0.0), dim=-1, eps=1e-30), usable


def _mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean of `values`, weighted by `weights` [..., 1] if given; 0 if nothing counts."""
    if weights is None:
        return values.sum() / max(values.numel(), 1)
    counted = torch.where(weights > 0, values * weights, 0.0)
    return counted.sum() / (weights.sum() * values.shape[-1]).clamp_min(_TINY)


def _image_sum(values: Tensor) -> Tensor:
    return values.sum(dim=(1, 2, 3), keepdim=True)


def _centered(values: Tensor, weights: Tensor) -> Tensor:
    """Return `values` minus their weighted mean per image; 0 where the weight is 0, whatever the value."""
    values = torch.where(weights > 0, values, 0.0)
    return torch.where(weights > 0, values - _image_sum(values * weights), 0.0)


def _pairs(mask: Tensor, dim: int) -> Tensor:
    """Return the weights of pairs of neighbouring pixels along `dim`: the products of their masks."""
    size = mask.shape[dim] - 1
    return mask.narrow(dim, 0, size) * mask.narrow(dim, 1, size)


def _sobel(image: Tensor) -> Tensor:
    """Return Sobel derivatives per pixel along x and y, [2, B, H-2, W-2, C], without the border."""
    dx = image[:, :, 2:] - image[:, :, :-2]
    dy = image[:, 2:] - image[:, :-2]
    along_x = dx[:, :-2] + 2 * dx[:, 1:-1] + dx[:, 2:]
    along_y = dy[:, :, :-2] + 2 * dy[:, :, 1:-1] + dy[:, :, 2:]
    return torch.stack([along_x, along_y]) / 8
