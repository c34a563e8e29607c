"""Everything a config file may say, and the checks that need no long work."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from liftstudio.config import Block, parse, read_config, to_plain
from liftstudio.errors import InputError
from liftstudio.evaluation import TestConfig, TruthConfig, check_test
from liftstudio.export import ExportConfig, check_export
from liftstudio.logs import LogConfig
from liftstudio.run_folder import default_tag

INPUTS = ("image", "prompt", "data.path")


@dataclass
class DataConfig:
    path: str | None = None  # the user's data (a folder or file); components read it as ${data.path}


@dataclass
class CheckpointConfig:
    every: int = 100  # steps between checkpoints; one is also written at the end of a stage

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every: wanted 1 or more steps, got {self.every}")


@dataclass
class RunConfig:
    """Everything a config file may say."""

    system: Annotated[Block, "system"]  # what is optimised, and how
    views: Annotated[Block, "views"] | None = None  # where the reference pictures come from
    image: str | None = None  # the user's picture; components read it as ${image}
    prompt: str | None = None  # the user's text, taken literally; components read it as ${prompt}
    data: DataConfig = field(default_factory=DataConfig)  # the user's data
    name: str = ""  # first part of the run's folder; empty: the config file's name
    tag: str = ""  # second part of the run's folder; empty: the input's name and the time
    runs_dir: str = "runs"  # where run folders are made
    seed: int = 0  # of every random draw
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the first CUDA device if there is one
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # how often the run is saved
    log: LogConfig = field(default_factory=LogConfig)  # what is written down on the way
    test: TestConfig = field(default_factory=TestConfig)  # turntable, passes, metrics
    export: ExportConfig = field(default_factory=ExportConfig)  # mesh files
    truth: TruthConfig = field(default_factory=TruthConfig)  # of a run from a picture: what its result is compared with

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: wanted 0 to {2**32 - 1}, got {self.seed}")


def load_run_config(path: Path, overrides: list[str]) -> RunConfig:
    """The checked config of a run.

    Raises:
        InputError: see `read_config` and `parse`; options that no machine or this machine cannot meet.
    """
    config = parse(read_config(path, overrides, INPUTS), RunConfig)
    config.name = config.name or path.stem
    config.tag = config.tag or default_tag(config.image or config.data.path)
    check_export(config.export)
    check_test(config.test)
    return config


def deciding_options(config: RunConfig) -> dict[str, Any]:
    """The options that decide the result of the stages: a run cannot go on with others."""
    plain = to_plain(config)
    return json.loads(json.dumps({key: plain[key] for key in ("seed", "views", "system")}))


def first_device(device: str, gpus: list[int] | None) -> torch.device:
    """The run's first device, where its reference views are made.

    Raises:
        InputError: as `choose_devices`.
    """
    accelerator, devices = choose_devices(device, gpus)
    return torch.device(accelerator, devices[0]) if isinstance(devices, list) else torch.device(accelerator)


def choose_devices(device: str, gpus: list[int] | None) -> tuple[str, list[int] | int]:
    """Accelerator and devices for Fabric.

    Raises:
        InputError: CUDA is asked for and not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus or []:
        if gpu >= count:
            raise InputError(f"--gpu {gpu}: this machine has {count} CUDA devices (numbered from 0)")
    if gpus:
        return "cuda", gpus
    if device == "cuda" and not count:
        raise InputError("device: cuda is asked for, but there is no CUDA device; use device=cpu or device=auto")
    return ("cpu", 1) if device == "cpu" or not count else ("cuda", [0])
