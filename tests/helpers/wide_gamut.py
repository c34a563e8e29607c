"""Pictures in wide colour spaces, and how files state them."""

import struct
import zlib

import numpy as np

TO_WIDE = {  # linear sRGB to the linear space; CSS Color 4, sample code, and Adobe RGB (1998), annex
    "p3": np.array([[0.8224620, 0.1775380, 0.0], [0.0331942, 0.9668058, 0.0], [0.0170826, 0.0723974, 0.9105199]]),
    "adobe": np.array([[0.7151627, 0.2848373, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0411705, 0.9588295]]),
}
PRIMARIES = {  # x, y of red, green, blue
    "p3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}
GAMMA = 563 / 256
WHITE = (0.3127, 0.3290)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def displayed(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clip(1e-9) ** (1 / 2.4) - 0.055)


def encoded(srgb: np.ndarray, space: str, gamma: float | None = GAMMA) -> np.ndarray:
    """Return sRGB colours [..., 3] in [0, 1] as levels in a wide space, uint8; gamma None: the curve of sRGB."""
    light = linear(srgb) @ TO_WIDE[space].T
    return np.rint(255 * (displayed(light) if gamma is None else light ** (1 / gamma))).astype(np.uint8)


def rgb_profile(space: str) -> bytes:
    """Return an ICC profile (version 2) of a space with GAMMA."""
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50, white = np.array([0.9642, 1, 0.8249]), xyz(*WHITE)
    columns = np.stack([xyz(x, y) for x, y in PRIMARIES[space]], axis=1)
    columns = columns * np.linalg.solve(columns, white)
    adapted = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford @ columns
    places = [(f"{name}XYZ".encode(), place(column)) for name, column in zip("rgb", adapted.T, strict=True)]
    return profile(b"RGB ", [*places, *((f"{name}TRC".encode(), curve(GAMMA)) for name in "rgb")])


def grey_profile(gamma: float) -> bytes:
    """Return an ICC profile (version 2) of grey images."""
    return profile(b"GRAY", [(b"kTRC", curve(gamma))])


def profile(space: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    d50 = np.array([0.9642, 1, 0.8249])
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = [(b"desc", name), (b"wtpt", place(d50)), *tags, (b"cprt", b"text\0\0\0\0none")]
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags:
        padded = data + b"\0" * (-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += padded
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + place(d50)[8:] + b"\0" * 48
    return head + table + body


def place(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1, (1 - x - y) / y])


def png_with(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return the PNG with chunks inserted behind its header."""
    packed = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return png[:33] + b"".join(packed) + png[33:]


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100000 / gamma))


def chrm(space: str) -> tuple[bytes, bytes]:
    return b"cHRM", b"".join(struct.pack(">I", round(v * 100000)) for pair in (WHITE, *PRIMARIES[space]) for v in pair)
