"""What a visitor asks for, as a job of the queue."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range
from liftstudio.data.images import image_size
from liftstudio.data.orbits import ElevationDeg
from liftstudio.run.jobs import Mode
from liftstudio.run.names import default_tag
from liftstudio.studio.app.cut_outs import WAYS, without_place
from liftstudio.studio.app.methods import OF_THE_PAGE, method
from liftstudio.studio.queue import Entry, Queue
from liftstudio.views.input_image import checked_box

LABELS = ("back", "left", "right")  # of further pictures; the first is the front


@dataclass(frozen=True)
class Order:
    """The fields of the page.

    picture, others: files that `uploads` keeps; capture: a folder. box: "left, top, right, bottom", pixels.
    elevation: degrees, unless `estimate`. options: lines of key=value.
    """

    method: str
    picture: Path | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    capture: Path | None = None
    box: str = ""
    prompt: str = ""
    elevation: ElevationDeg = 0.0
    estimate: bool = True
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    options: str = ""


def order_of(sent: Mapping[str, Any]) -> Order:
    """Return an order from what a browser sent for its fields, which may be anything; empty ones are left out.

    sent: without the files.

    Raises:
        InputError: a field has a wrong type or value, or the elevation is neither given nor to be estimated.
    """
    given = {name: value for name, value in sent.items() if value not in (None, "")}
    if sent.get("estimate"):
        given.pop("elevation", None)
    elif "elevation" not in given:
        raise InputError("elevation: give a number of degrees, or let it be estimated")
    return parse(given, Order)


def submit(queue: Queue, order: Order, mode: Mode) -> Entry:
    """Add the job of an order to the queue and return it.

    Raises:
        InputError: an input is missing, or an option is unknown or has a bad value.
    """
    files = [file for file in (order.picture, order.capture, *order.others.values()) if file is not None]
    try:
        return _submitted(queue, order, mode)
    except InputError as error:
        raise InputError(functools.reduce(without_place, files, str(error))) from None


def _submitted(queue: Queue, order: Order, mode: Mode) -> Entry:
    takes = method(order.method).takes
    given: dict[str, Any] = {"tag": default_tag(None), "seed": order.seed}
    images: Path | dict[str, str | Path] | None = None
    if "image" in takes:
        if order.picture is None:
            raise InputError("drop a picture first")
        images = {"front": order.picture, **order.others} if order.others else order.picture
        if (box := box_of(order.box)) is not None:
            checked_box(order.picture, box, *image_size(order.picture), WAYS)
            given["image_box"] = list(box)
        if not order.estimate:
            given["views.elevation_deg"] = order.elevation
    if "data" in takes:
        if order.capture is None:
            raise InputError("give a zip of posed photographs first")
        given["data.path"] = str(order.capture)
    if "prompt" in takes and order.prompt.strip():
        given["prompt"] = order.prompt.strip()
    return queue.submit(order.method, images, {**given, **options_of(order.options)}, mode)


def box_of(text: Any) -> tuple[int, int, int, int] | None:
    """Return the box in a text, "left, top, right, bottom", in brackets or not; None: the text is empty.

    Raises:
        InputError: it has not four whole numbers.
    """
    if text is None or not str(text).strip():
        return None
    words = re.split(r"[\s,]+", str(text).strip(" []()"))
    if len(words) != 4 or not all(re.fullmatch(r"-?\d{1,6}", word) for word in words):
        raise InputError(f"box: expected four whole numbers, left, top, right, bottom, got '{str(text)[:80]}'")
    left, top, right, bottom = map(int, words)
    return left, top, right, bottom


def options_of(text: str) -> dict[str, str]:
    """Return the options in lines of key=value; what stands behind a # at the start of a line is left out.

    Raises:
        InputError: a line is no key=value, or names an option that has a field of its own on the page.
    """
    given = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise InputError(f"'{line[:80]}': expected key=value, for example seed=1")
        if re.split(r"[.\[]", key)[0] in OF_THE_PAGE:
            raise InputError(f"'{key}': has a field of its own on this page")
        given[key] = value
    return given
