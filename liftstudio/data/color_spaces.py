"""Colour spaces of image files, and the conversion of their colours to sRGB."""

import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

log = logging.getLogger("liftstudio")

Floats = NDArray[np.float32]
Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]

D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # white, red, green, blue: CIE x, y
ADOBE_RGB: Chromaticities = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
CODED_PRIMARIES: dict[int, Chromaticities] = {  # ITU-T H.273, table 2
    1: SRGB,
    9: (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
CODED_GAMMAS = {1: 0.0, 4: 2.2, 5: 2.8, 6: 0.0, 8: 1.0, 13: 0.0, 14: 0.0, 15: 0.0}  # table 3; as displayed
ADOBE_GAMMA = 563 / 256
GAMMA_TOLERANCE = 0.05  # relative; PNG files in sRGB state 1 / 2.2
CHROMATICITY_TOLERANCE = 0.002
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}  # of ICC colour spaces
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class ColorSpace:
    """The space of an image's colours: by an ICC profile, else by primaries and a transfer curve.

    chromaticities: CIE x, y of white, red, green, blue.
    gamma:          linear light is value^gamma; 0: the curve of sRGB.
    profile:        ICC profile; empty: none.
    """

    chromaticities: Chromaticities = SRGB
    gamma: float = 0.0
    profile: bytes = b""

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Return an image of any mode without alpha as sRGB, mode RGB. A profile that does not fit it is not used."""
        if self.profile:
            return _by_profile(image, self.profile)
        values = (np.asarray(image.convert("RGB")) / 255).astype(np.float32)
        return Image.fromarray(np.rint(self.srgb_values(values) * 255).astype(np.uint8))

    def srgb_values(self, values: Floats) -> Floats:
        """Return colours [..., 3] in [0, 1] as sRGB; by a profile, only those of grey images."""
        if self.profile:
            ramp = _by_profile(Image.fromarray(np.arange(256, dtype=np.uint8)[None]), self.profile)
            return np.interp(values, np.linspace(0, 1, 256), np.asarray(ramp)[0, :, 0] / 255).astype(np.float32)
        linear = values**self.gamma if self.gamma else linear_from_srgb(values)
        mixed = linear @ _to_srgb_primaries(self.chromaticities).T.astype(np.float32)
        return srgb_from_linear(mixed.clip(0, 1))


def color_space(image: Image.Image) -> ColorSpace | None:
    """Return the colour space that an opened file states; None if it is sRGB or not stated.

    A PNG's chunks are considered in the order of its specification: cICP, iCCP, sRGB, gAMA and cHRM. A JPEG without
    profile may state Adobe RGB in its EXIF data (DCF 2.0).
    """
    info = image.info
    if "cicp" in info:
        return _coded_space(info["cicp"])
    if info.get("icc_profile"):
        return ColorSpace(profile=info["icc_profile"])
    if "srgb" in info:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _measured_space(info)
    return ColorSpace(ADOBE_RGB, ADOBE_GAMMA) if _states_adobe_rgb(image) else None


def png_coding(data: bytes) -> tuple[int, ...] | None:
    """Return the four codes of a PNG's cICP chunk, which Pillow skips; None if there is none in the bytes `data`."""
    _, found, codes = data.partition(b"IDAT")[0].partition(b"cICP")
    return tuple(codes[:4]) if found and len(codes) >= 4 else None


def _coded_space(codes: tuple[int, ...]) -> ColorSpace | None:
    primaries, transfer = codes[:2]
    if primaries not in CODED_PRIMARIES or transfer not in CODED_GAMMAS:
        log.warning(
            "colours coded as cICP %d/%d, such as HDR, are read as sRGB, which they are not; convert the image to sRGB",
            primaries,
            transfer,
        )
        return None
    space = ColorSpace(CODED_PRIMARIES[primaries], CODED_GAMMAS[transfer])
    return None if space == ColorSpace() else space


def _measured_space(info: dict[Any, Any]) -> ColorSpace | None:
    gamma = 1 / info["gamma"] if info.get("gamma", 0) > 0 else 0.0
    numbers = info.get("chromaticity", ())
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    usable = len(pairs) == 4 and all(y > 0 for _, y in pairs)
    near = not usable or np.abs(np.array(pairs) - np.array(SRGB)).max() < CHROMATICITY_TOLERANCE
    if near and abs(gamma / 2.2 - 1) < GAMMA_TOLERANCE:
        return None
    space = ColorSpace(SRGB if near else pairs, gamma)  # type: ignore[arg-type]
    return None if space == ColorSpace() else space


def _states_adobe_rgb(image: Image.Image) -> bool:
    exif = image.getexif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    interoperability = exif.get_ifd(ExifTags.IFD.Interop) if ExifTags.IFD.Interop in camera else {}
    rule = interoperability.get(ExifTags.Interop.InteropIndex, "")
    return camera.get(ExifTags.Base.ColorSpace) == 2 or str(rule).startswith("R03")


def _by_profile(image: Image.Image, data: bytes) -> Image.Image:
    if image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(profile.profile.xcolor_space, "none")
        if mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if mode != image.mode:
            raise ImageCms.PyCMSError(f"it is for {profile.profile.xcolor_space.strip()} images, not {image.mode}")
        converted = ImageCms.profileToProfile(
            image,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        log.warning("the image's colour profile cannot be used (%s); its colours are read as sRGB", error)
        return image.convert("RGB")
    assert converted is not None
    return converted


def _to_srgb_primaries(chromaticities: Chromaticities) -> NDArray[np.float64]:
    """Return [3, 3]: linear RGB of these primaries to linear sRGB, white to white (Bradford)."""
    own, srgb = _xyz_from_rgb(chromaticities), _xyz_from_rgb(SRGB)
    cones = _BRADFORD @ srgb.sum(1) / (_BRADFORD @ own.sum(1))
    return np.linalg.inv(srgb) @ np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ own


def _xyz_from_rgb(chromaticities: Chromaticities) -> NDArray[np.float64]:
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in chromaticities)
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white)


def linear_from_srgb(values: Floats) -> Floats:
    """Return linear values of sRGB values in [0, 1], of any shape (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_from_linear(values: Floats) -> Floats:
    """Return sRGB values of linear values in [0, 1], of any shape (IEC 61966-2-1)."""
    curve = 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055
    return np.where(values <= 0.0031308, 12.92 * values, curve).astype(np.float32)
