"""A run's checkpoints: one file each, complete or absent, verified before use, safe to load."""

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

MAGIC = "liftstudio-checkpoint-1"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    stage, step: `step` steps of `stage` are done; total_step counts them over all stages.
    system:      what `System.state()` gave.
    config:      the options that decide the result, as plain data.
    elapsed:     stage -> wall seconds spent in it.
    random:      the process's global random states (the system keeps its own generators in its state).
    versions:    package -> version that wrote it.
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
    """The checkpoints in a folder; the last two are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then drop all but the last two.

        Raises:
            OSError: full disk, read-only folder, ...
            TypeError: the system's state holds something that cannot be loaded safely.
            InputError: the system's state holds values that are not numbers any more.
        """
        _check_state(checkpoint.system, "state")
        path = self.folder / f"step-{checkpoint.total_step:08d}-{checkpoint.stage}.ckpt"
        write_verified(path, {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)})
        for old in self.paths()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """All checkpoint files, newest first."""
        return sorted(self.folder.glob("step-*.ckpt"), reverse=True)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest good checkpoint (None if there is no file at all), and why newer ones were refused.

        Raises:
            InputError: there are files but none is good.
        """
        refused: list[str] = []
        for path in self.paths():
            try:
                return Checkpoint(**read_verified(path)), refused
            except (InputError, TypeError) as error:
                refused.append(str(error) if isinstance(error, InputError) else f"{path}: not of this version")
        if refused:
            raise InputError(f"no usable checkpoint: {'; '.join(refused)}")
        return None, []


def write_verified(path: Path, data: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and numbers, with a header that lets `read_verified` prove them whole."""
    buffer = io.BytesIO()
    torch.save(data, buffer)
    payload = buffer.getbuffer()
    header = json.dumps({"magic": MAGIC, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()})
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode() + b"\n")
        file.write(payload)


def read_verified(path: Path) -> dict[str, Any]:
    """What `write_verified` wrote; on the CPU, and without running anything the file may hold.

    Raises:
        InputError: the file is unreadable, torn, changed or not ours.
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
        raise InputError(f"{path}: torn, {len(payload)} of {header.get('bytes')} bytes")
    if hashlib.sha256(payload).hexdigest() != header.get("sha256"):
        raise InputError(f"{path}: damaged, its SHA-256 does not match")
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise InputError(f"{path}: holds something that is not safe to load") from None


def check_same_config(saved: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Refuse to go on with other options than the run was started with.

    Raises:
        InputError: naming the first dotted key that differs.
    """
    before, now = dict(_flat(saved)), dict(_flat(current))
    for key in [*before, *now]:
        if before.get(key, "absent") != now.get(key, "absent"):
            was, wanted = before.get(key, "absent"), now.get(key, "absent")
            raise InputError(f"{key}: the run in {path} was started with {was}, now {wanted}; start a new run for that")


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
            raise InputError(f"{path} holds NaN: not saved; lower the learning rate or the loss weights")
    elif type(value) not in (int, float, str, bool, type(None)):  # exactly: NumPy's scalars are floats too
        raise TypeError(f"{path}: a checkpoint cannot hold {type(value)}")


def random_states() -> dict[str, Any]:
    """The process's global random states, as plain data and tensors."""
    name, keys, *position = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, [int(key) for key in keys], *position],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` gave."""
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_everything(seed: int) -> None:
    """Seed the process's global random states; our own code draws from explicit generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
