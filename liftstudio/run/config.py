"""The top-level options of a run, parsed and checked without torch, which takes seconds to import."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from liftstudio.core.config import ComponentSpec, ExportOnly, missing_keys, parse, read_config, to_plain
from liftstudio.core.errors import InputError
from liftstudio.core.logs import LogConfig
from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.export import ExportConfig, check_export
from liftstudio.run.names import default_tag

NETWORKS = ("networks.lpips", "networks.depth", "networks.normals")
INPUTS = ("images", "image", "image_box", "prompt", "data.path", "prior", *NETWORKS)
# They ask for a picture that shows one object, all of it, before a background from which it can be cut out.
ONE_WHOLE_OBJECT = ", one whole object, centred, far from the edges of the picture, plain white background"


@dataclass
class DataConfig:
    path: str | None = None  # the user's data, a folder or file; components refer to it as ${data.path}


@dataclass
class NetworksConfig:
    """Published networks for losses that count where one is named; components refer to them as ${networks.lpips}."""

    lpips: str = ""  # folder with the published weights of LPIPS, for the perceptual loss
    depth: str = ""  # folder or hub name of a depth estimator, for the loss on estimated depth
    normals: str = ""  # folder or hub name of a normal estimator, for the loss on estimated normals


@dataclass
class CheckpointConfig:
    every: PositiveInt = 100  # steps between checkpoints; one is also written at the end of each stage


@dataclass
class EvaluationConfig:
    frames: PositiveInt = 60  # frames of the turntable video
    fps: Annotated[float, Range(above=0, high=240)] = 30.0  # frames per second of the turntable video
    size: Annotated[int, Range(16)] = 256  # height and width of turntable and stills, pixels
    elevation_deg: Annotated[float, Range(-89, 89)] = 20.0  # elevation of their cameras, degrees above the horizon
    stills: NonNegativeInt = 4  # number of azimuths with stills, evenly spaced from azimuth 0
    lpips_weights: str = ""  # folder with the published weight files of LPIPS; empty: LPIPS is not measured
    lpips_network: Literal["alexnet", "vgg16"] = "alexnet"  # network of LPIPS; papers usually report alexnet
    clip_weights: str = ""  # folder of a CLIP checkpoint, for the comparison with truth; empty: no CLIP, no CD score
    cd_form: Literal["released", "paper"] = "released"  # CD score as by HarmonyView's code, or as its paper defines it
    cd_reference: Literal["first-view", "input-image"] = "first-view"  # that its diversity is measured from
    contextual_weights: str = ""  # LPIPS files of VGG-16, for the contextual distance; empty: patches of pixels
    raft_weights: str = ""  # weight file of RAFT, for E_flow; needs torchvision; empty: no E_flow


@dataclass
class TruthConfig:
    views: str = ""  # true views with cameras: a capture as posed-images reads it; its mesh is the true surface
    mesh: str = ""  # file of the true surface; without truth.views: z up, +x towards the picture's camera
    view: str = ""  # file name (000.png) of the true view that is the picture; empty: the first

    def __post_init__(self) -> None:
        if self.view and not self.views:
            raise InputError("view: needs truth.views, of which it names one")


@dataclass
class TextToImageConfig:
    model: str = ""  # folder of a diffusers text-to-image pipeline, or its name on the Hugging Face hub
    suffix: str = ONE_WHOLE_OBJECT  # words after the text
    count: PositiveInt = 4  # pictures that are made, from `seed` on; the best is taken
    steps: NonNegativeInt = 0  # denoising steps; 0: the pipeline's default


@dataclass
class RunConfig:
    """The top-level options of a run."""

    system: Annotated[ComponentSpec, "system"]  # what is optimised, and how
    prior: Annotated[ComponentSpec, "prior"] | None = None  # the diffusion model; components refer to it as ${prior}
    views: Annotated[ComponentSpec, "views"] | None = None  # source of the reference views
    text: str = ""  # a description of an object; `text_to_image` makes the picture from it, in place of `image`
    text_to_image: TextToImageConfig = field(default_factory=TextToImageConfig)  # how it is made
    captioner: str = ""  # folder or hub name of a captioner for transformers (BLIP, GIT); it writes an empty `prompt`
    image: str | None = None  # the user's picture; components refer to it as ${image}
    images: dict[str, str] = field(default_factory=dict)  # or several of one object, by label; referred to as ${images}
    image_box: tuple[int, int, int, int] | None = None  # where its object is; components refer to it as ${image_box}
    prompt: str | None = None  # the user's text, taken literally; components refer to it as ${prompt}
    data: DataConfig = field(default_factory=DataConfig)  # the user's data
    networks: NetworksConfig = field(default_factory=NetworksConfig)  # for losses that count where one is named
    name: str = ""  # first part of the run folder's path; empty: the config file's name
    tag: str = ""  # second part of the run folder's path; empty: the input's name and the time
    runs_dir: str = "runs"  # where run folders are created
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0  # seed of all random draws
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: the first CUDA device if there is one
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)  # how often the run is saved
    log: LogConfig = field(default_factory=LogConfig)  # what is logged during training
    test: EvaluationConfig = field(default_factory=EvaluationConfig)  # turntable, passes, metrics
    export: ExportConfig = field(default_factory=ExportConfig)  # mesh files
    truth: TruthConfig = field(default_factory=TruthConfig)  # ground truth to compare with; for runs from one picture

    @property
    def picture(self) -> str:
        """The user's picture, or the first of several; empty: none."""
        return self.image or next(iter(self.images.values()), "")


def load_run_config(path: Path, overrides: list[str]) -> RunConfig:
    """Return the checked config of a run; overrides of `images` replace the config's own `image`.

    Labels of images may have a point in them: images.22.5=a.png.

    Raises:
        InputError: see `read_config`, `parse` and `check_export`.
    """
    if any(_is_below(override, "images") for override in overrides):
        overrides = ["image=", *(re.sub(r"^images\.([^=]*)=", r"images[\1]=", override) for override in overrides)]
    config = parse(read_config(path, overrides, INPUTS), RunConfig)
    config.name = config.name or path.stem
    config.tag = config.tag or default_tag(config.text or config.picture or config.data.path)
    check_export(config.export)
    return config


def load_without_input(path: Path, overrides: list[str]) -> RunConfig:
    """Return the checked config before it is given an input that it leaves to the user, such as its image.

    Raises:
        InputError: see `load_run_config`.
    """
    given = [key for key in INPUTS if any(_is_below(override, key) for override in overrides)]
    given += ["image"] if "images" in given else []  # in whose place they are
    missing = [key for key in missing_keys(path, INPUTS) if key not in given]
    return load_run_config(path, [*(f"{key}={'{}' if key == 'images' else 'none'}" for key in missing), *overrides])


def _is_below(override: str, key: str) -> bool:
    """Return whether an override sets an option or a part of it."""
    return re.match(rf"{re.escape(key)}[.=\[]", override) is not None


def deciding_options(config: RunConfig) -> dict[str, Any]:
    """Return the options that determine the result of the stages, which must not change when a run is resumed.

    Options that others only refer to, such as ${prior}, are included where they are used.
    """
    plain = to_plain(config, without=ExportOnly)
    return json.loads(json.dumps({key: plain[key] for key in ("seed", "views", "system")}))
