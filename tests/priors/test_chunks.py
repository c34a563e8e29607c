"""Frames that go through an autoencoder at once."""

from liftstudio.priors.chunks import PIXELS, frames_at_once


def test_frames_at_once_are_bounded_by_their_pixels() -> None:
    """One frame of SV3D, whose encoding with gradients takes 5 GB, and several of small priors."""
    assert [frames_at_once(size) for size in (32, 256, 320, 512, 576, 1024)] == [4, 4, 2, 1, 1, 1]
    assert all(frames_at_once(size) * size**2 <= PIXELS for size in range(64, 512, 64))
    assert frames_at_once(576, 7) == 7
