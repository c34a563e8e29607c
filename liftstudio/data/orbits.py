"""Camera paths as angles: (azimuth_deg [T], elevation_deg [T]), float32.

A closed orbit of T frames is one turn in ascending azimuths, counter-clockwise seen from above. Its last frame is the
input view at azimuth 0: azimuth_i = 360 (i + 1) / T mod 360 (the order of SV3D).
"""

from typing import Annotated

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range

MAX_ELEVATION_DEG = 89.0  # at the poles the image's up is not defined
ElevationDeg = Annotated[float, Range(-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG)]

# A dynamic orbit, as the official code draws it.
FINE_FRAMES = 84  # frames of the path of which every n-th is taken
SINUSOIDS = 84
PERIODS = (1.0, 5.0)  # per turn, of which the whole part is taken
AMPLITUDES_DEG = (0.5, 10.0)
WINDOW = 5  # frames of the path over which elevations are averaged
DRAWS = 1000  # attempts at a path without too high elevations

Angles = tuple[Tensor, Tensor]


def static(frames: int, elevation_deg: float) -> Angles:
    """Return a closed orbit at one elevation.

    Raises:
        InputError: fewer than 1 frame, or an elevation beyond +-89 degrees.
    """
    return sine(frames, elevation_deg, 0.0)


def sine(frames: int, elevation_deg: float, amplitude_deg: float) -> Angles:
    """Return a closed orbit with one sine period in elevation: e_i = e_0 + A sin(2 pi (i + 1) / T).

    SV3D's "sine-30" has A = 30. With a negative amplitude the orbit starts downwards.

    Raises:
        InputError: fewer than 1 frame, or elevations beyond +-89 degrees.
    """
    _check_frames(frames)
    _check_elevation("elevation_deg and amplitude_deg", abs(elevation_deg) + abs(amplitude_deg))
    turn = _turn(frames)
    return _azimuth(turn), (elevation_deg + amplitude_deg * torch.sin(2 * torch.pi * turn)).float()


def random_sine(
    frames: int,
    elevation_deg: float,
    amplitude_deg: float,
    generator: torch.Generator,
    azimuth_jitter_deg: float = 0.0,
) -> Angles:
    """Return a `sine` orbit of random amplitude, with irregular azimuth steps.

    Args:
        frames: number of frames.
        elevation_deg: elevation of the last frame.
        amplitude_deg: the amplitude is uniform in [-this, this], reduced so that elevations stay within +-89 degrees.
        generator: source of the random draws.
        azimuth_jitter_deg: each azimuth but the last moves by a uniform draw from [-this, this]; below half a step.

    Raises:
        InputError: fewer than 1 frame, an elevation beyond +-89 degrees, or a jitter of half a step or more.
    """
    _check_elevation("elevation_deg", abs(elevation_deg))
    largest = min(amplitude_deg, MAX_ELEVATION_DEG - abs(elevation_deg))
    _, elevation = sine(frames, elevation_deg, float(_uniform(1, -largest, largest, generator)))
    return _azimuth(_jittered(_turn(frames), azimuth_jitter_deg, generator)), elevation


def dynamic(frames: int, elevation_deg: float, generator: torch.Generator) -> Angles:
    """Return a random closed orbit as SV3D was trained on: a sum of sinusoids in elevation, irregular azimuth steps.

    SV3D, appendix B, with the numbers of the official code (`gen_dynamic_loop` in `scripts/demo/sv3d_helpers.py`).
    A fine path is drawn, anew while it rises beyond +-89 degrees, of which every n-th frame is taken. It has 84 frames,
    or the multiple of `frames` nearest to that. It ends exactly at the input view.

    Args:
        frames: number of frames.
        elevation_deg: elevation of the last frame.
        generator: source of the random draws.

    Raises:
        InputError: fewer than 1 frame, or an elevation beyond +-89 degrees.
    """
    _check_frames(frames)
    _check_elevation("elevation_deg", abs(elevation_deg))
    every = max(1, round(FINE_FRAMES / frames))
    azimuth = _irregular_turn(every * frames, generator)
    for _ in range(DRAWS):
        wave = _closed_wave(every * frames, generator)
        if (elevation_deg + wave).abs().max() <= MAX_ELEVATION_DEG:
            break
    else:
        raise InputError(
            f"elevation_deg: no dynamic orbit from {elevation_deg:g} degrees stays within +-{MAX_ELEVATION_DEG:g}; "
            "give one nearer to 0"
        )
    # The path starts at the input view; the orbit ends there.
    return azimuth[::every].roll(-1).float(), (elevation_deg + wave)[::every].roll(-1).float()


def random(
    count: int,
    generator: torch.Generator,
    elevation_range_deg: tuple[float, float] = (-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG),
    azimuth_range_deg: tuple[float, float] = (0.0, 360.0),
) -> Angles:
    """Return independent random views, uniform over the part of the sphere between the given angles.

    Raises:
        InputError: a negative count, a range that descends, or elevations beyond +-89 degrees.
    """
    if count < 0:
        raise InputError(f"count: expected 0 or more, got {count}")
    for name, (low, high) in (("elevation_range_deg", elevation_range_deg), ("azimuth_range_deg", azimuth_range_deg)):
        if not -float("inf") < low <= high < float("inf"):
            raise InputError(f"{name}: expected two finite angles, the lower first, got {low}, {high}")
    _check_elevation("elevation_range_deg", max(map(abs, elevation_range_deg)))
    azimuth = _uniform(count, *azimuth_range_deg, generator)
    low, high = torch.sin(torch.deg2rad(torch.tensor(elevation_range_deg, dtype=torch.float64))).tolist()
    elevation = torch.rad2deg(torch.asin(_uniform(count, low, high, generator)))
    return azimuth.float() % 360, elevation.float()


def _turn(frames: int) -> Tensor:
    """Return the fraction of the turn that is done at each frame, [T]; the last is 1."""
    return torch.arange(1, frames + 1, dtype=torch.float64) / frames


def _azimuth(turn: Tensor) -> Tensor:
    return (360 * turn).float() % 360


def _jittered(turn: Tensor, azimuth_jitter_deg: float, generator: torch.Generator) -> Tensor:
    """Return `turn` [T] with all but the last moved by up to `azimuth_jitter_deg` in either direction."""
    if not 0 <= azimuth_jitter_deg < 180 / len(turn):
        limit = f"0 to below {180 / len(turn):g} degrees (half a step)"
        raise InputError(f"azimuth_jitter_deg: expected {limit}, got {azimuth_jitter_deg}")
    jitter = _uniform(len(turn), -azimuth_jitter_deg, azimuth_jitter_deg, generator)
    jitter[-1] = 0
    return turn + jitter / 360


def _irregular_turn(frames: int, generator: torch.Generator) -> Tensor:
    """Return ascending azimuths [T] in degrees from 0; random steps, of which the last one back to 0 is left out."""
    steps = _uniform(frames - 1, 0.0, 2.0, generator)
    turn = 360 - 360 / frames * _uniform(1, 0.0, 2.0, generator)
    return torch.cat([torch.zeros(1), (steps * turn / steps.sum()).cumsum(0)])


def _closed_wave(frames: int, generator: torch.Generator) -> Tensor:
    """Return a random sum of sinusoids [T] in degrees, averaged over `WINDOW` frames; exactly 0 in the first frame."""
    periods = torch.floor(_uniform(SINUSOIDS, *PERIODS, generator))[:, None]
    amplitude = _uniform(SINUSOIDS, *AMPLITUDES_DEG, generator) * _uniform(SINUSOIDS, -1.0, 1.0, generator).sign()
    turn = torch.arange(frames, dtype=torch.float64) / frames
    wave = (amplitude[:, None] * torch.sin(2 * torch.pi * periods * turn)).sum(0)
    around = range(-(WINDOW // 2), WINDOW // 2 + 1)
    smooth = torch.stack([wave.roll(shift) for shift in around]).mean(0)
    smooth[0] = 0  # without rounding error: the sinusoids are odd around the first frame
    return smooth


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return uniform draws [count], float64 on the CPU for any device of the generator."""
    draw = torch.rand(count, dtype=torch.float64, generator=generator, device=generator.device).cpu()
    return low + (high - low) * draw


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise InputError(f"frames: expected 1 or more, got {frames}")


def _check_elevation(name: str, largest_deg: float) -> None:
    if not largest_deg <= MAX_ELEVATION_DEG:
        raise InputError(f"{name}: elevations must stay within +-{MAX_ELEVATION_DEG:g} degrees, got {largest_deg:g}")
