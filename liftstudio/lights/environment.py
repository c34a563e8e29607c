"""Light from an environment map, and the environment map of a fitted light."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.files import atomic_write
from liftstudio.data.color_spaces import srgb_from_linear
from liftstudio.data.directions import equirectangular
from liftstudio.data.environment import save_environment
from liftstudio.data.images import resize_area, save_image
from liftstudio.lights.base import Light
from liftstudio.lights.spherical_gaussians import SphericalGaussians
from liftstudio.ops.spherical_gaussians import COSINE_INTEGRAL

FINEST = 64  # rows of the map for the sum over it; finer ones are averaged
ROWS = 32  # of the table of irradiance, between whose values is interpolated: an error of about 0.1 %
SAVED_ROWS = 128


class Environment(Light):
    """Coloured light from an environment map, received by Lambertian surfaces without shadows."""

    table: Tensor

    def __init__(self, radiance: Tensor) -> None:
        """Tabulate the irradiance. radiance: [H, 2H, 3], see `equirectangular`."""
        super().__init__()
        rows = min(FINEST, len(radiance))
        fine = radiance * equirectangular(len(radiance))[1][..., None]
        flux = resize_area(fine, rows, 2 * rows) * (len(radiance) / rows) ** 2
        directions, _ = equirectangular(rows)
        normals = equirectangular(ROWS)[0].reshape(-1, 3)
        cosines = (normals @ directions.reshape(-1, 3).T).clamp_min(0)
        table = cosines @ flux.reshape(-1, 3) / math.pi
        self.register_buffer("table", table.view(ROWS, 2 * ROWS, 3).permute(2, 0, 1)[None])

    @property
    def brightest(self) -> float:
        """The largest irradiance of any normal and channel; from 1 on, white surfaces are clipped."""
        return float(self.table.max())

    def irradiance(self, normals: Tensor) -> Tensor:
        """Irradiance divided by pi, [N, 3], at unit world-space normals [N, 3]."""
        x, y, z = normals.unbind(-1)
        across = -torch.atan2(y, x) / math.pi * (2 * ROWS) / (2 * ROWS + 2)  # one more column on each side
        down = 2 * torch.acos(z.clamp(-1, 1)) / math.pi - 1
        around = F.pad(self.table, (1, 1, 0, 0), mode="circular")
        where = torch.stack([across, down], dim=-1)[None, None]
        return F.grid_sample(around, where, padding_mode="border", align_corners=False)[0, :, 0].T


def save_light(folder: Path, light: nn.Module | None) -> list[Path]:
    """Write a fitted light as light.json (its Gaussians), light.hdr and light.png (equirectangular); return the files.

    Other lights are not fitted, and nothing is written. The HDR file is scaled so that its irradiance, with the true
    cosine, has the mean of the fitted one, whose cosine is a Gaussian. The PNG is sRGB, with the brightest value as 1.

    Raises:
        OSError: the folder cannot be written.
    """
    if not isinstance(light, SphericalGaussians):
        return []
    with torch.no_grad():
        axes, sharpness, amplitude = (values.cpu() for values in light.lobes())
        directions = equirectangular(SAVED_ROWS)[0]
        lobes = amplitude * torch.exp(sharpness * (directions @ axes.T - 1))
    radiance = (lobes.sum(-1, keepdim=True) * COSINE_INTEGRAL / math.pi).expand(-1, -1, 3)
    rows = zip(axes.tolist(), sharpness.tolist(), amplitude.tolist(), strict=True)
    description = {
        "radiance": "white, display-referred: sum of amplitude * exp(sharpness * (dot(axis, direction) - 1))",
        "axes": "world: right-handed, z up, the object's front on +x",
        "environment_map_scale": COSINE_INTEGRAL / math.pi,
        "lobes": [dict(zip(("axis", "sharpness", "amplitude"), row, strict=True)) for row in rows],
    }
    atomic_write(folder / "light.json", json.dumps(description, indent=2) + "\n")
    save_environment(folder / "light.hdr", radiance)
    save_image(folder / "light.png", torch.from_numpy(srgb_from_linear((radiance / radiance.max()).numpy())))
    return [folder / f"light.{suffix}" for suffix in ("json", "hdr", "png")]
