"""`python -m bench.full_size METHOD [PART ...]`: a published network at its full size, without its weights.

A file (or folder) as the method's authors publish it is written with random numbers in place of the weights, opened as
a user would, and put to work: the input image is encoded, noise is estimated once, sampling takes two steps, views are
decoded, and a step of score distillation passes gradients through the encoder. Every part runs in a process of its own,
and its peak of memory is its own, with the opened networks in it; its seconds are without opening. A part that has a
row is not repeated, so an interrupted benchmark goes on.

The file has several gigabytes. It is written to a folder of its own in that of --folder, by default the system's
temporary one, and stays there: delete it afterwards.
"""

import liftstudio  # isort: skip  # noqa: F401  before torch: it sets how OpenMP threads wait

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import full_size_files as files
from bench.runs import Row, append_rows, in_own_process, read_rows
from bench.timing import timed
from liftstudio.cli import command_line
from liftstudio.core import registry
from liftstudio.core.assets import output_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.memory import Chunks, memory_high_water_gb
from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.chunks import frames_at_once
from liftstudio.priors.distillation import encode_in_chunks, sds_loss
from liftstudio.priors.opening import open_prior
from liftstudio.priors.samplers import euler

CPU = torch.device("cpu")
SIGMA = 1.0  # noise level of the estimate and of score distillation
STEPS = 2  # of the sampler
PROMPT = "a corgi in a space suit"
ROWS = Path("runs/full_size.jsonl")


@dataclass(frozen=True)
class Method:
    """A published network.

    write:   writes its file or folder into a folder; returns the options by which it is opened.
    type:    of its component.
    views:   that it denoises together, or, where they are independent, those of a step.
    cameras: first azimuth in steps between the views, elevation in degrees, distance, field of view in degrees.
    kind:    of its component.
    prompt:  whether it takes one as an option.
    """

    write: Callable[[Path], files.Options]
    type: str
    views: int
    cameras: tuple[int, float, float, float] = (1, 10.0, 3.6, 33.8)
    kind: str = "prior"
    prompt: bool = False


METHODS = {
    "sv3d-p": Method(functools.partial(files.write_sv3d, variant="p"), "sv3d", 21),
    "sv3d-u": Method(functools.partial(files.write_sv3d, variant="u"), "sv3d", 21),
    "imagedream": Method(files.write_imagedream, "imagedream", 4, (1, 10.0, 3.6, 47.0), prompt=True),
    "syncdreamer": Method(files.write_syncdreamer, "syncdreamer", 16, (0, 30.0, 1.5, files.SYNCDREAMER_FOV_DEG)),
    "sd2-depth": Method(files.write_depth_model, "sd2-depth", 4, kind="depth-prior"),
    "zero123": Method(files.write_zero123, "zero123", 4),
}


class Opened:
    """An opened network, and inputs for it."""

    def __init__(self, method: Method, options: files.Options, views: int) -> None:
        """Open the network.

        views: to decode, and to encode with gradients; 0: all that are denoised together.
        """
        self.prior = _open(method, options)
        first, elevation_deg, distance, fov_deg = method.cameras
        size, count = self.prior.resolution, method.views
        azimuth_deg = 360 / count * (torch.arange(count) + first)
        elevations_deg = torch.full((count,), elevation_deg)
        self.cameras = orbit_cameras(azimuth_deg, elevations_deg, distance, fov_deg, size, size)
        self.generator = torch.Generator().manual_seed(0)
        start = orbit_cameras(torch.zeros(1), elevations_deg[:1], distance, fov_deg, size, size)
        self.posed = PosedImage(self.random(size, size, 3).sigmoid(), torch.ones(size, size, 1), start)
        self.prior.check_cameras(start, self.cameras)
        self.views = views or count

    def random(self, *shape: int) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.generator)

    @functools.cached_property
    def condition(self) -> Any:
        """The encoded input image; a random depth map where that is the condition."""
        return self.prior.condition(self.posed) or self.random(len(self.cameras), 1, *self.prior.latent_shape[1:])

    def denoise(self, latents: Tensor, sigma: float) -> Tensor:
        """Return the guided estimate of clean latents."""
        scales = torch.full((len(self.cameras),), self.prior.guidance_scale)
        return self.prior.denoise(NoisyViews(latents, sigma, self.condition, self.cameras, scales))


def _open(method: Method, options: files.Options) -> Prior:
    prompt = {"prompt": PROMPT} if method.prompt else {}
    config = registry.find(method.type, method.kind).Config(**options, **prompt)
    block = ComponentSpec(method.kind, method.type, config)
    if method.kind == "prior":
        return open_prior(block, CPU)
    from liftstudio.methods.hifi123.depth_sds import DepthScore

    model = block.build(device=CPU)
    model.unet  # noqa: B018  which is otherwise loaded at its first use
    return DepthScore(model, PROMPT)


def open_(opened: Opened) -> Tensor:
    """Do nothing more."""
    return torch.zeros(())


def condition(opened: Opened) -> Tensor:
    """Encode the input image."""
    found = opened.condition
    return found if isinstance(found, Tensor) else torch.stack([each.norm() for each in _tensors(found)])


def _tensors(found: Any) -> list[Tensor]:
    values = list(vars(found).values())
    nested = [tensor for value in values if hasattr(value, "__dataclass_fields__") for tensor in _tensors(value)]
    return [*(value for value in values if isinstance(value, Tensor)), *nested]


def estimate(opened: Opened) -> Tensor:
    """Estimate the clean latents of all views once, without guidance."""
    noisy = SIGMA * opened.random(len(opened.cameras), *opened.prior.latent_shape)
    return opened.prior.denoise(NoisyViews(noisy, SIGMA, opened.condition, opened.cameras))


def sample(opened: Opened) -> Tensor:
    """Sample all views in two guided steps."""
    noise = opened.random(len(opened.cameras), *opened.prior.latent_shape)
    return euler(opened.denoise, noise, opened.prior.sigmas(STEPS))


def decode(opened: Opened) -> Tensor:
    """Decode views in chunks."""
    return opened.prior.decode(opened.random(opened.views, *opened.prior.latent_shape))[0]


def distil(opened: Opened) -> Tensor:
    """Take a step of score distillation, with guidance; returns the gradient at the pixels."""
    prior, size = opened.prior, opened.prior.resolution
    images = opened.random(opened.views, size, size, 3).sigmoid().requires_grad_()
    masks, chunks = torch.ones(opened.views, size, size, 1), Chunks(frames_at_once(size), "chunk")
    latents = encode_in_chunks(prior.encode, images, masks, chunks)
    missing = opened.random(len(opened.cameras) - opened.views, *prior.latent_shape)
    noisy = torch.cat([latents.detach(), missing])
    noisy = noisy + SIGMA * opened.random(*noisy.shape)
    sds_loss(latents, opened.denoise(noisy, SIGMA)[: opened.views], SIGMA).backward()
    assert images.grad is not None
    return images.grad


PARTS: dict[str, Callable[[Opened], Tensor]] = {
    part.__name__.removesuffix("_"): part for part in (open_, condition, estimate, sample, decode, distil)
}


def measure(part: str, method: Method, options: files.Options, views: int) -> Row:
    """Open a network and run a part of the work with it; returns seconds, of the clock and of all cores, and memory.

    Raises:
        RuntimeError: the result is not finite.
    """
    registry.load_methods()
    start = time.process_time()
    opened, seconds = timed(lambda: Opened(method, options, views))
    if part != "open":
        if part != "condition":
            opened.condition  # noqa: B018  is work of its own
        _forget_peak()
        start = time.process_time()
        result, seconds = timed(lambda: PARTS[part](opened))
        if not bool(result.isfinite().all()):
            raise RuntimeError(f"{part}: the result is not finite")
    times = {"seconds": round(seconds, 1), "cpu_seconds": round(time.process_time() - start, 1)}
    size = {"views": _view_count(part, opened), "pixels": opened.prior.resolution}
    return {**times, **memory_high_water_gb(), "precision": _precision(opened.prior), **size}


def _view_count(part: str, opened: Opened) -> int:
    """Return the number of views that a part works on."""
    few = {"open": 0, "condition": 1, "decode": opened.views, "distil": opened.views}
    return few.get(part, len(opened.cameras))


def _forget_peak() -> None:
    """Let the peak of memory be that from here on."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def _precision(prior: Any) -> str:
    """Return the precision of the denoising network."""
    network = getattr(prior, "network", None) or getattr(prior, "unet", None) or prior.model.unet
    return str(network.dtype).removeprefix("torch.")


def write(method: Method, folder: Path) -> Row:
    """Write a method's file into a new folder; returns seconds, gigabytes and the options by which it is opened."""
    registry.load_methods()
    place = Path(tempfile.mkdtemp(prefix="full-size-", dir=folder))
    options, seconds = timed(lambda: method.write(place))
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {"seconds": round(seconds, 1), "file_gb": round(size / 1e9, 2), "options": options}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that have no row and print the table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.full_size", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("method", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    add("--views", type=int, default=0, help="to decode, and to encode with gradients; default: all of a step")
    add("--folder", type=output_path, default=Path(tempfile.gettempdir()), help="where the file's folder is made")
    add("--again", action="store_true", help="repeat parts that have rows")
    add("--rows", type=output_path, default=ROWS, help=f"JSON Lines file of rows; default: {ROWS}")
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            raise InputError(f"{part}: no such part; expected {', '.join(PARTS)}")
    most = METHODS[options.method].views
    if not 0 <= options.views <= most:
        raise InputError(f"--views: expected 0 to {most}, got {options.views}")
    return options


def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    name, method = options.method, METHODS[options.method]
    opening = _written(name, method, options)
    rows = {} if options.again else {row["part"]: row for row in _rows_of(name, options.rows)}
    for part in options.parts or PARTS:
        if part in rows:
            Console(stderr=True).print(f"{name}, {part}: has a row in {options.rows}; --again repeats it")
            continue
        try:
            row = in_own_process(measure, part, method, opening, options.views)
        except (BrokenProcessPool, RuntimeError, MemoryError) as error:  # the process was killed, or out of memory
            row = {"error": " ".join(str(error).split())[:300]}
        append_rows(options.rows, [{"method": name, "part": part, **row}])
    Console(width=160).print(_table(_rows_of(name, options.rows)))
    return command_line.DONE


def _written(name: str, method: Method, options: argparse.Namespace) -> files.Options:
    """Return the options by which the method's file is opened, which is written if there is none yet."""
    known = [row["options"] for row in _rows_of(name, options.rows) if row["part"] == "write"]
    if known and Path(known[-1]["weights"]).exists():
        return known[-1]
    row = in_own_process(write, method, options.folder)
    append_rows(options.rows, [{"method": name, "part": "write", **row}])
    return row["options"]


def _rows_of(name: str, path: Path) -> list[Row]:
    return [row for row in read_rows(path) if row["method"] == name]


def _table(rows: list[Row]) -> Table:
    """Return a table with the newest row of each part."""
    table = Table("method", "part", "views", "precision", "seconds", "core seconds", "peak GB", "error")
    for row in {row["part"]: row for row in rows}.values():
        size = f"{row['views']} x {row['pixels']}^2" if row.get("views") else ""
        peak = row.get("memory_gb") or f"(file: {row.get('file_gb')})"
        found = [row.get(name, "") for name in ("precision", "seconds", "cpu_seconds")]
        table.add_row(row["method"], row["part"], size, *map(str, found), str(peak), row.get("error", ""))
    return table


if __name__ == "__main__":
    sys.exit(main())
