"""How many frames go through the networks for single images, such as an autoencoder, at once."""

MOST = 4  # frames; more are hardly faster
PIXELS = MOST * 256**2  # in float32 about 2 GB to decode, 4 GB to encode with gradients


def frames_at_once(resolution: int, asked: int = 0) -> int:
    """Return the number of frames of `resolution` pixels across: as asked, or, for 0, what the memory for PIXELS takes.

    It is 4 up to 256 pixels across, and 1 from 512.
    """
    return asked or max(1, min(MOST, PIXELS // resolution**2))
