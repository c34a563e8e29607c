"""Light from environment maps, and the maps of fitted lights."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.directions import equirectangular, fibonacci_sphere
from liftstudio.data.environment import read_environment, save_environment
from liftstudio.lights.environment import Environment, save_light
from liftstudio.lights.spherical_gaussians import SphericalGaussians
from liftstudio.lights.uniform import Uniform


def lamp(direction: tuple[float, float, float], rows: int = 256) -> Tensor:
    """Return a map with a red lamp of 10 degrees in one direction, by its irradiance of a surface that faces it."""
    directions, areas = equirectangular(rows)
    inside = (directions @ F.normalize(torch.tensor(direction).float(), dim=0) > math.cos(math.radians(5))).float()
    value = math.pi / (inside * areas).sum()
    return inside[..., None] * value * torch.tensor([1.0, 0.5, 0.0])


def test_the_pixels_of_a_map_look_in_known_directions() -> None:
    directions, areas = equirectangular(64)
    assert float(areas.sum() * 128) == pytest.approx(4 * math.pi, rel=1e-5)
    up, down, front, left, right = (0, 0, 1), (0, 0, -1), (1, 0, 0), (0, 1, 0), (0, -1, 0)
    expected = {(0, 64): up, (63, 64): down, (32, 64): front, (32, 32): left, (32, 96): right}
    for (row, column), wanted in expected.items():
        assert (directions[row, column] - torch.tensor(wanted).float()).norm() < 0.06


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, -1, 0), (-1, 0, 0), (0, 0, 1), (0.5, -0.6, -0.6)])
def test_a_lamp_lights_the_surfaces_that_face_it(direction: tuple[float, float, float]) -> None:
    light, normals = Environment(lamp(direction)), fibonacci_sphere(500)
    cosine = (normals @ F.normalize(torch.tensor(direction).float(), dim=0)).clamp_min(0)
    given = light.irradiance(normals)
    assert (given[:, 0] - cosine).abs().max() < 0.03  # it is a disc of 10 degrees
    assert (given[:, 1] - 0.5 * given[:, 0]).abs().max() < 1e-5 and (given[:, 2] == 0).all()


def test_uniform_surroundings_leave_the_albedo_unchanged() -> None:
    light = Environment(torch.ones(100, 200, 3))
    assert (light.irradiance(fibonacci_sphere(300)) - 1).abs().max() < 2e-3
    assert light.brightest == pytest.approx(1, abs=2e-3)


def test_the_map_of_a_fitted_light_gives_its_irradiance(tmp_path: Path) -> None:
    light = SphericalGaussians(SphericalGaussians.Config(brightest=1.1))
    with torch.no_grad():
        light.raw_amplitude += torch.randn(24)
        light.axes += 0.3 * torch.randn(24, 3)
    files = save_light(tmp_path, light)
    assert [path.name for path in files] == ["light.json", "light.hdr", "light.png"]
    normals = fibonacci_sphere(400)
    with torch.no_grad():
        fitted = light.irradiance(normals)
    read = Environment(read_environment(tmp_path / "light.hdr")).irradiance(normals)
    # The fit takes the cosine for a Gaussian that never ends; the map is lit by the true one.
    assert (read - fitted).abs().max() < 0.12 and (read - fitted).abs().mean() < 0.03
    assert (read.mean() - fitted.mean()).abs() < 0.01

    lobes = json.loads((tmp_path / "light.json").read_text())["lobes"]
    directions = equirectangular(128)[0]
    cosines = [directions.numpy() @ np.array(lobe["axis"]) for lobe in lobes]
    radiance = sum(
        lobe["amplitude"] * np.exp(lobe["sharpness"] * (c - 1)) for lobe, c in zip(lobes, cosines, strict=True)
    )
    by_opencv = cv2.imread(str(tmp_path / "light.hdr"), cv2.IMREAD_UNCHANGED)
    ratio = by_opencv / radiance[..., None]
    assert ratio.min() > 1.0823 * 0.99 and ratio.max() < 1.0823 * 1.01  # the files' common exponent of RGB has 8 bits
    shown = np.asarray(Image.open(tmp_path / "light.png"))
    assert shown.shape == (128, 256, 3) and shown.max() == 255
    assert (radiance[shown[..., 0] == 255] > 0.99 * radiance.max()).all()


def test_only_fitted_lights_are_written(tmp_path: Path) -> None:
    assert save_light(tmp_path, Uniform(Uniform.Config())) == [] and save_light(tmp_path, None) == []
    assert not list(tmp_path.iterdir())


def test_environment_maps_survive_a_file(tmp_path: Path) -> None:
    radiance = 10 ** (4 * torch.rand(16, 32, 3) - 2)
    save_environment(tmp_path / "it.hdr", radiance)
    read = read_environment(tmp_path / "it.hdr")
    largest = radiance.amax(-1, keepdim=True)
    assert ((read - radiance).abs() / largest).max() < 1 / 128  # eight bits and a common exponent


def test_unusable_maps_are_named(tmp_path: Path) -> None:
    path = tmp_path / "it.hdr"
    with pytest.raises(InputError, match="no such file"):
        read_environment(path)
    Image.new("RGB", (4, 2)).save(path, "PNG")
    with pytest.raises(InputError, match=r"Radiance HDR.*found a PNG image"):
        read_environment(path)
    save_environment(path, torch.ones(4, 4, 3))
    with pytest.raises(InputError, match=r"twice as wide as high.*got 4 x 4"):
        read_environment(path)
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 90000 +X 180000\n")
    with pytest.raises(InputError, match="above the limit"):
        read_environment(path)
    save_environment(path, torch.rand(16, 32, 3))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="damaged"):
        read_environment(path)
    path.write_bytes(b"#?RADIANCE\n\n+Y 2 +X 4\n")
    with pytest.raises(InputError, match="-Y height"):
        read_environment(path)
