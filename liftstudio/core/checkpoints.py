"""Checkpoints of a run: one file each, written atomically, verified before use, safe to load."""

import dataclasses
import hashlib
import io
import json
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_path
from liftstudio.core.logs import log

MAGIC = "liftstudio-checkpoint-1"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to continue as if it had never stopped.

    stage, step: the stage and the number of its steps that are done; total_step counts the steps of all stages.
    system:      the result of `System.state()`.
    config:      the options that determine the result, as plain data.
    elapsed:     stage -> wall-clock seconds spent in it.
    random:      the process's global random states (the system keeps its own generators in its state).
    versions:    package -> version that wrote the checkpoint.
    """

    stage: str
    step: int
    total_step: int
    system: dict[str, Any]
    config: dict[str, Any]
    elapsed: dict[str, float]
    random: dict[str, Any]
    versions: dict[str, str]


class Checkpoints:
    """The checkpoints in a folder, which keeps the last two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, delete all but the last two, and return its path.

        Raises:
            OSError: full disk, read-only folder, ...
            TypeError: the system's state contains objects that cannot be loaded safely.
            InputError: the system's state contains NaN.
        """
        try:
            _check_state(checkpoint.system, "state")
        except InputError as error:
            stage = f"system.stages.{checkpoint.stage}"
            raise InputError(f"{error}; lower {stage}.optimizer.lr, or the weights of the losses in {stage}") from None
        path = self.folder / f"step-{checkpoint.total_step:08d}-{checkpoint.stage}.ckpt"
        write_verified(path, {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)})
        for old in self.paths()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """Return all checkpoint files, newest first."""
        return sorted(self.folder.glob("step-*.ckpt"), reverse=True)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest valid checkpoint (None if there are no files), and why newer ones were rejected.

        Raises:
            InputError: there are files, but none is valid.
        """
        refused: list[str] = []
        for path in self.paths():
            try:
                return Checkpoint(**read_verified(path)), refused
            except (InputError, TypeError) as error:
                is_foreign = isinstance(error, TypeError)
                refused.append(f"{path}: not a checkpoint of this version" if is_foreign else str(error))
        if refused:
            raise InputError(f"no usable checkpoint: {'; '.join(refused)}")
        return None, []


def write_verified(path: Path, data: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and numbers, with a header by which `read_verified` verifies them."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    payload = buffer.getbuffer()
    header = json.dumps({"magic": MAGIC, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()})
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode() + b"\n")
        file.write(payload)


def read_verified(path: Path) -> dict[str, Any]:
    """Return what `write_verified` wrote, on the CPU; no code that the file may contain is run.

    Raises:
        InputError: the file is unreadable, truncated, damaged or of another format.
    """
    try:
        header_line, _, payload = path.read_bytes().partition(b"\n")
        header = json.loads(header_line) if len(header_line) < 1000 else {}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError:
        header = {}
    if not isinstance(header, dict) or header.get("magic") != MAGIC:
        raise InputError(f"{path}: not a checkpoint of this version")
    if len(payload) != header.get("bytes"):
        raise InputError(f"{path}: truncated, {len(payload)} of {header.get('bytes')} bytes")
    if hashlib.sha256(payload).hexdigest() != header.get("sha256"):
        raise InputError(f"{path}: damaged, its SHA-256 does not match")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise InputError(f"{path}: contains objects that are not safe to load") from None


def check_same_config(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Check that a run continues with the options it was started with.

    Raises:
        InputError: an option differs; names the dotted key of the first one.
    """
    before, now = dict(_flat(saved)), dict(_flat(current))
    for key in [*before, *now]:
        if before.get(key, "absent") != now.get(key, "absent"):
            was, wanted = before.get(key, "absent"), now.get(key, "absent")
            raise InputError(f"{key}: the run in {path} was started with {was}, not {wanted}; start a new run instead")


def _flat(data: Any, path: str = "") -> list[tuple[str, Any]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else None
    if items is None:
        return [(path, data)]
    return [leaf for key, item in items for leaf in _flat(item, f"{path}.{key}" if path else str(key))]


def _check_state(value: Any, path: str) -> None:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            _check_state(item, f"{path}.{key}")
    elif isinstance(value, Tensor):
        if value.is_floating_point() and torch.isnan(value).any():
            raise InputError(
                f"{path} contains NaN: not saved; lower the learning rates or the loss weights of the stage"
            )
    elif type(value) not in (int, float, str, bool, type(None)):  # not isinstance: NumPy's float64 is a float too
        raise TypeError(f"{path}: a checkpoint cannot contain {type(value)}")


def random_states() -> dict[str, Any]:
    """Return the process's global random states, as plain data and tensors."""
    name, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, [int(key) for key in keys], *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the result of `random_states`."""
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def set_generator_state(generator: torch.Generator, state: Tensor) -> None:
    """Restore a generator of any device.

    A state from another kind of device does not fit, as when a run of a GPU is exported or continued on a CPU. The
    generator is then left as it is, with a warning.
    """
    if state.numel() != generator.get_state().numel():
        log.warning("the run was on another kind of device: its random numbers are drawn anew from here on")
        return
    generator.set_state(state.cpu())


def seed_everything(seed: int) -> None:
    """Seed the process's global random generators; our own code draws from explicit ones."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
