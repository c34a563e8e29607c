import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.core.errors import InputError
from liftstudio.data import orbits


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(fresh_seed())


@pytest.mark.parametrize("frames", [1, 2, 21, 60])
def test_static_orbit_ends_at_the_input_view(frames: int) -> None:
    azimuth, elevation = orbits.static(frames, 12.5)
    assert azimuth.dtype == elevation.dtype == torch.float32
    assert azimuth[-1] == 0 and bool((azimuth[:-1].diff() > 0).all())
    assert bool((elevation == 12.5).all())
    if frames > 1:
        torch.testing.assert_close(azimuth[0], torch.tensor(360.0 / frames))


def test_sine_orbit_follows_its_formula() -> None:
    azimuth, elevation = orbits.sine(21, 10.0, 30.0)
    step = torch.arange(1, 22, dtype=torch.float64)
    torch.testing.assert_close(elevation.double(), 10 + 30 * torch.sin(2 * torch.pi * step / 21), atol=1e-5, rtol=0)
    torch.testing.assert_close(azimuth.double(), 360 * step / 21 % 360, atol=1e-4, rtol=0)  # float32 of 360
    assert abs(float(elevation[-1]) - 10) < 1e-5  # the sine of a full turn is zero to rounding


@pytest.mark.parametrize("elevation_deg, largest_deg", [(-5.0, 40.0), (75.0, 14.0)])
def test_random_sine_orbit_is_a_sine_with_jitter(
    generator: torch.Generator, elevation_deg: float, largest_deg: float
) -> None:
    round_trip = 2 * torch.pi * torch.arange(1, 22, dtype=torch.float64) / 21
    amplitudes = []
    for _ in range(100):
        azimuth, elevation = orbits.random_sine(21, elevation_deg, 40.0, generator, azimuth_jitter_deg=8.5)
        amplitude = (elevation.double() - elevation_deg)[4] / torch.sin(round_trip[4])
        wanted = elevation_deg + amplitude * torch.sin(round_trip)
        torch.testing.assert_close(elevation.double(), wanted, atol=1e-4, rtol=0)  # float32 of up to 89
        moved = azimuth[:-1].double() - torch.rad2deg(round_trip[:-1])
        assert azimuth[-1] == 0 and bool((azimuth[:-1].diff() > 0).all()), generator.initial_seed()
        assert 4 < float(moved.abs().max()) < 8.501, generator.initial_seed()  # all 20 under 4: one in 3 million
        amplitudes.append(float(amplitude))
    # uniform within +-largest: an end that stays empty in 100 draws by a tenth of the width has a chance of 3e-5
    assert max(map(abs, amplitudes)) <= largest_deg + 1e-3, generator.initial_seed()
    assert max(amplitudes) > 0.8 * largest_deg and min(amplitudes) < -0.8 * largest_deg, generator.initial_seed()


@pytest.mark.parametrize(("frames", "every"), [(2, 42), (5, 17), (21, 4), (84, 1), (100, 1)])
def test_dynamic_orbit_is_closed_and_ascending(generator: torch.Generator, frames: int, every: int) -> None:
    for _ in range(20):
        azimuth, elevation = orbits.dynamic(frames, -5.0, generator)
        assert azimuth.dtype == elevation.dtype == torch.float32 and len(azimuth) == len(elevation) == frames
        assert azimuth[-1] == 0 and elevation[-1] == -5, generator.initial_seed()
        assert bool((azimuth[:-1].diff() > 0).all()) and bool((azimuth[:-1] > 0).all()), generator.initial_seed()
        assert float(azimuth.max()) < 360 and float(elevation.abs().max()) <= 89, generator.initial_seed()


def test_dynamic_orbit_has_the_official_statistics(generator: torch.Generator) -> None:
    drawn = [orbits.dynamic(84, 0.0, generator) for _ in range(200)]
    spectra = torch.stack([torch.fft.rfft(elevation.double().roll(1)) / 42 for _, elevation in drawn])
    # Only sines of 1 to 4 periods, lowered by the average over 5 of 84 frames; exact but for float32.
    others = torch.cat([spectra.real, spectra.imag[:, :1], spectra.imag[:, 5:]], dim=1)
    assert float(others.abs().max()) < 1e-4, generator.initial_seed()
    assert float(spectra.imag[:, 1:5].abs().amin(dim=0).max()) > 0, generator.initial_seed()
    # 84 amplitudes uniform in 0.5 to 10 of random sign, a quarter of them at each frequency: the variance of a
    # coefficient is 21 (10^3 - 0.5^3) / (3 * 9.5) = 737 before rejection and averaging, which lower it by up to half.
    variance = spectra.imag[:, 1].square().mean()
    assert 300 < float(variance) < 800, generator.initial_seed()
    # The gap that is left to the input view is uniform in 0 to 2 steps: mean 1, standard deviation 0.58 / sqrt(200).
    gaps = torch.tensor([360 - float(azimuth[-2]) for azimuth, _ in drawn]) / (360 / 84)
    assert abs(float(gaps.mean()) - 1) < 6 * 0.58 / 200**0.5 and float(gaps.max()) <= 2.001, generator.initial_seed()


def test_dynamic_orbit_is_its_generators() -> None:
    first, second, other = (orbits.dynamic(21, 0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_random_views_are_uniform_on_the_sphere(generator: torch.Generator) -> None:
    azimuth, elevation = orbits.random(20000, generator, (-30.0, 60.0), (-90.0, 90.0))
    assert bool(((azimuth <= 90) | (azimuth >= 270)).all()) and bool((elevation.abs() <= 60.0001).all())
    height = torch.sin(torch.deg2rad(elevation))
    low, high = -0.5, 3**0.5 / 2
    # mean of 20,000 uniform draws: standard deviation 0.0028; 6 of them
    assert abs(float(height.mean()) - (low + high) / 2) < 0.017, generator.initial_seed()
    assert float(elevation.min()) >= -30.0001
    assert orbits.random(0, generator)[0].shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda g: orbits.static(0, 0.0),
        lambda g: orbits.static(5, 90.0),
        lambda g: orbits.static(5, float("nan")),
        lambda g: orbits.sine(5, 60.0, -30.0),
        lambda g: orbits.random_sine(0, 0.0, 10.0, g),
        lambda g: orbits.random_sine(5, 89.5, 10.0, g),
        lambda g: orbits.random_sine(21, 0.0, 30.0, g, azimuth_jitter_deg=9.0),
        lambda g: orbits.random_sine(21, 0.0, 30.0, g, azimuth_jitter_deg=-1.0),
        lambda g: orbits.dynamic(0, 0.0, g),
        lambda g: orbits.dynamic(21, 90.0, g),
        lambda g: orbits.dynamic(21, 88.9, g),
        lambda g: orbits.random(-1, g),
        lambda g: orbits.random(3, g, (10.0, -10.0)),
        lambda g: orbits.random(3, g, (-90.0, 10.0)),
        lambda g: orbits.random(3, g, (0.0, 10.0), (0.0, float("inf"))),
    ],
)
def test_impossible_orbits_are_refused(call, generator: torch.Generator) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        call(generator)
