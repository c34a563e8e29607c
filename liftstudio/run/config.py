"""Everything a config file may say, read and checked without torch, which takes seconds to import."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from liftstudio.core.config import ComponentSpec, parse, read_config, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import LogConfig
from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.export import ExportConfig, check_export
from liftstudio.run.names import default_tag

INPUTS = ("image", "prompt", "data.path", "prior")


@dataclass
class DataConfig:
    path: str | None = None  # the user's data (a folder or file); components read it as ${data.path}


@dataclass
class CheckpointConfig:
    every: PositiveInt = 100  # steps between checkpoints; one is also written at the end of a stage


@dataclass
class TestConfig:
    frames: PositiveInt = 60  # frames of the turntable video
    fps: Annotated[float, Range(above=0, high=240)] = 30.0  # frames of that video per second
    size: Annotated[int, Range(16)] = 256  # height and width of turntable and stills, pixels
    elevation_deg: Annotated[float, Range(-89, 89)] = 20.0  # of their cameras, degrees above the horizon
    stills: NonNegativeInt = 4  # azimuths of the still passes, evenly around the object from azimuth 0
    lpips_weights: str = ""  # folder with the published weight files of LPIPS; empty: LPIPS is not measured
    lpips_network: Literal["alexnet", "vgg16"] = "alexnet"  # network of LPIPS; alexnet is the usual one for reports
    clip_weights: str = ""  # folder of a CLIP checkpoint, to compare with the truth by; empty: no CLIP, no CD score
    contextual_weights: str = ""  # LPIPS's files of VGG-16, for the contextual distance; empty: patches of pixels
    raft_weights: str = ""  # file of RAFT's weights, for E_flow; needs torchvision; empty: no E_flow


@dataclass
class TruthConfig:
    views: str = ""  # true views with their cameras: a capture, as posed-images reads it; its mesh is the true surface
    mesh: str = ""  # file of the true surface; without truth.views: z up, +x towards the picture's camera
    view: str = ""  # which of the true views the picture is, by its file's name (000.png); empty: the first

    def __post_init__(self) -> None:
        if self.view and not self.views:
            raise InputError("view: names one of the true views, and truth.views is not given")


@dataclass
class RunConfig:
    """Everything a config file may say."""

    system: Annotated[ComponentSpec, "system"]  # what is optimised, and how
    prior: Annotated[ComponentSpec, "prior"] | None = None  # the diffusion model; components read it as ${prior}
    views: Annotated[ComponentSpec, "views"] | None = None  # where the reference pictures come from
    image: str | None = None  # the user's picture; components read it as ${image}
    prompt: str | None = None  # the user's text, taken literally; components read it as ${prompt}
    data: DataConfig = field(default_factory=DataConfig)  # the user's data
    name: str = ""  # first part of the run's folder; empty: the config file's name
    tag: str = ""  # second part of the run's folder; empty: the input's name and the time
    runs_dir: str = "runs"  # where run folders are made
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0  # of every random draw
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the first CUDA device if there is one
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # how often the run is saved
    log: LogConfig = field(default_factory=LogConfig)  # what is written down on the way
    test: TestConfig = field(default_factory=TestConfig)  # turntable, passes, metrics
    export: ExportConfig = field(default_factory=ExportConfig)  # mesh files
    truth: TruthConfig = field(default_factory=TruthConfig)  # of a run from a picture: what its result is compared with


def load_run_config(path: Path, overrides: list[str]) -> RunConfig:
    """The checked config of a run.

    Raises:
        InputError: see `read_config` and `parse`; options that no machine or this machine cannot meet.
    """
    config = parse(read_config(path, overrides, INPUTS), RunConfig)
    config.name = config.name or path.stem
    config.tag = config.tag or default_tag(config.image or config.data.path)
    check_export(config.export)
    return config


def deciding_options(config: RunConfig) -> dict[str, Any]:
    """The options that decide the result of the stages: a run cannot go on with others.

    What the rest of the config only refers to, as ${prior}, counts where it is used.
    """
    plain = to_plain(config)
    return json.loads(json.dumps({key: plain[key] for key in ("seed", "views", "system")}))
