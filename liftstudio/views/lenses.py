"""Finds in the keys of a transforms.json whether its camera is a pinhole, which is all that is supported."""

import re
from collections.abc import Iterator

from liftstudio.core.errors import InputError
from liftstudio.views.frames import DISTORTION_TOLERANCE

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "FULL_OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
# Names of coefficients and switches that are 0 or false for a pinhole, in nerfstudio, instant-ngp, OpenCV and COLMAP.
DISTORTING = re.compile(
    r"(^|[._])([kps][xy]?_?\d+|tau_?[xy]|xi)(?=$|[.\[])|(?<!un)distort(?!ed_)|dist_?coef|lens_?(param|coef)|f_?theta"
    r"|fish_?eye|radial_?(param|coef)|tangential|thin_?prism|lat_?long|equirect|omni_?dir|panoram|orthographic"
    r"|(^|[._])(kappa_?\d|(?-i:k|kc|D|dist|radial)\[)",  # K is the matrix of intrinsics; dist and k may be no lists
    re.IGNORECASE,
)
LENS_NAME = re.compile(
    r"(^|[._])((lens|projection|distortion)([._]?(model|type|mode|name))?|camera_?(type|mode))$", re.I
)
NO_PINHOLE = re.compile(r"fish|theta|lat_?long|equirect|spher|omni|panoram|360|ortho", re.IGNORECASE)
UNKNOWN_LENS = re.compile(r"lens|shutter|skew|shift_?[xy]", re.IGNORECASE)
ZERO_TEXT = re.compile(r"(none|no|false|[-+]?[0.]+)?", re.IGNORECASE)


def check_pinhole(data: dict[str, object], where: str) -> list[str]:
    """Check that a frame's camera is a pinhole; return warnings about keys that may say otherwise.

    data: keys and values of the frame and, where the frame does not replace them, of the top level.

    Raises:
        InputError: `camera_model` is no pinhole, or a key that is a lens's by its name, nested or not, is not about 0.
    """
    model = data.get("camera_model", "PINHOLE")
    if not (isinstance(model, str) and model.upper() in PINHOLES):
        raise InputError(f"{where}: camera_model: expected a pinhole ({', '.join(PINHOLES)}), got {model!r:.60}")
    unknown = dict[str, None]()
    for name, value in _leaves(data):
        if _is_distorting(name, value):
            found = f"{where}: lens distortion ({name} = {value!s:.60})"
            raise InputError(f"{found}; only pinhole cameras are supported; undistort the images first")
        is_unknown = value and not isinstance(value, str) and UNKNOWN_LENS.search(name)
        if is_unknown or (value is False and "undistorted" in name.lower()):
            unknown[name.partition("[")[0]] = None
    return [f"the unknown key {name} is ignored; if it is of a lens that distorts, undistort first" for name in unknown]


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted names and values of a JSON value, without those in lists that are no lens's by their name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif not isinstance(value, list):
        yield name, value
    elif DISTORTING.search(f"{name}[") or UNKNOWN_LENS.search(name):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]")


def _is_distorting(name: str, value: object) -> bool:
    """Return whether a key of this name says with this value that the camera is no pinhole."""
    if isinstance(value, str) and LENS_NAME.search(name):
        return bool(NO_PINHOLE.search(value))
    if not DISTORTING.search(name):
        return False
    if isinstance(value, str):
        return not ZERO_TEXT.fullmatch(value.strip())
    # The coefficients of an f-theta lens are in radians per power of a pixel: small ones matter.
    tolerance = 0 if "theta" in name.lower() else DISTORTION_TOLERANCE
    return isinstance(value, int | float) and abs(value) > tolerance
