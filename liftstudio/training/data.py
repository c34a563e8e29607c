"""Objects seen by rigs, made on the fly: the n-th batch is the same on every machine, so training can resume."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, Range, UnitFloat
from liftstudio.data.cameras import turned
from liftstudio.synthetic import Kind, TexturedObject, make_object, patterned, render, split
from liftstudio.training.rigs import Rig, RigConfig, draw_count, draw_rig, fitted, measured_count
from liftstudio.training.solids import Solid, procedural_solid

Licences = Literal["permissive", "any"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass
class DataConfig:
    """What is seen, and how."""

    captures: str = ""  # the user's own renders instead: a folder with a capture in each sub-folder, or one capture
    captures_up: Literal["z", "cameras"] = "z"  # their up: the z axis, or the cameras' mean up (for COLMAP)
    objects: str = ""  # real meshes: a folder with packs and catalog.csv, or with the user's GLB, OBJ or PLY files
    objects_share: UnitFloat = 0.85  # share of those, where there are any; the rest are procedural
    licences: Licences = "permissive"  # of a catalogue; permissive: that ask for no more than attribution
    weights: dict[str, NonNegativeFloat] = field(default_factory=dict)  # by pack: how often a mesh is drawn; else 1
    augment: bool = True  # vary colours, and the input views' sharpness, where there are real meshes
    toys: UnitFloat = 1.0  # share of toy figures; the rest are free composites
    patterned: UnitFloat = 0.0  # share of objects whose every part has a pattern of strong contrast
    resolution: Annotated[int, Range(16, multiple_of=8)] = 64  # pixels across an image
    rig: RigConfig = field(default_factory=RigConfig)  # cameras; of captures only the number of views

    def __post_init__(self) -> None:
        if self.captures and self.objects:
            raise InputError("data: give captures or objects, not both")


@dataclass(frozen=True)
class Sample:
    """One object with an input view and V views, in the frame where the input view's azimuth is 0.

    input_image: [R, R, 4] rgb over white and alpha in [0, 1]. images: [V, R, R, 4] the same of the views.
    depths: [V, R, R, 1] z-depth in world units, 0 beside the object; of captures up to scale and shift, or None.
    object: what a procedural one is made of, in canonical pose, to be turned by the rig's `front_deg` about z, or None.
    solid: what is inside it, in the same frame as the cameras; None: its shape is not known.
    """

    rig: Rig
    input_image: Tensor
    images: Tensor
    depths: Tensor | None
    object: TexturedObject | None
    solid: Solid | None


class SampleSource(ABC):
    """Where samples come from; either all of its samples have a known shape or none, and likewise depths."""

    @abstractmethod
    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """The sample of that number to train on, with so many views; all that is random draws from `generator`."""

    @abstractmethod
    def unseen(self, number: int) -> Sample:
        """The sample of that number to measure, always the same; its object is never trained on."""


class ProceduralObjects(SampleSource):
    """Toy figures and free composites, drawn and rendered by ourselves."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """See `SampleSource.training`."""
        kind = KINDS[int(torch.rand((), generator=generator) >= self.config.toys)]
        return draw_sample(kind, split(number, kind, "train"), self.config, views, generator)

    def unseen(self, number: int) -> Sample:
        """See `SampleSource.unseen`; the kind that most objects are of."""
        kind = KINDS[self.config.toys < 0.5]
        views = measured_count(self.config.rig)
        generator = torch.Generator().manual_seed(number)
        return draw_sample(kind, split(number, kind, "unseen"), self.config, views, generator)


def draw_sample(kind: Kind, seed: int, config: DataConfig, views: int, generator: torch.Generator) -> Sample:
    """The object of a seed with a random rig of `views` views."""
    obj = make_object(kind, seed)
    if config.patterned and torch.rand((), generator=generator) < config.patterned:
        obj = patterned(obj, seed)
    rig = draw_rig(config.rig, views, config.resolution, generator)
    if config.rig.shift:  # else every camera sees all of it
        rig = fitted(rig, torch.from_numpy(obj.vertices), 0.0)
    return view_object(obj, rig)


def view_object(obj: TexturedObject, rig: Rig) -> Sample:
    """An object, front at the rig's `front_deg`, seen by its cameras."""
    input_view, views = (render(obj, turned(cameras, -rig.front_deg)) for cameras in (rig.input_camera, rig.views))
    rgba = [torch.cat([image.rgb, image.alpha], dim=-1) for image in (input_view, views)]
    return Sample(rig, rgba[0][0], rgba[1], views.depth, obj, procedural_solid(obj, rig.front_deg))


class TrainingBatches(Dataset[dict[str, Tensor]]):
    """Batches of a source's samples, as `prepare` makes them."""

    def __init__(
        self,
        source: SampleSource,
        rig: RigConfig,
        batch_size: int,
        extra_views: int,
        prepare: Callable[[list[Sample], torch.Generator], dict[str, Tensor]],
    ) -> None:
        """extra_views: views of a sample beyond the number drawn for its batch."""
        self.source, self.rig, self.batch_size, self.extra_views = source, rig, batch_size, extra_views
        self.prepare = prepare

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The batch of that number."""
        generator = torch.Generator().manual_seed(index)
        views = draw_count(self.rig, generator) + self.extra_views
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        return self.prepare([self.source.training(number, views, generator) for number in numbers], generator)
