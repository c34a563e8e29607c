"""Training samples, rendered on the fly; batch n is the same on every machine, so that training can resume."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, Range, UnitFloat
from liftstudio.data.cameras import turned
from liftstudio.synthetic import Kind, TexturedObject, make_object, patterned, render, split
from liftstudio.training.rigs import Rig, RigConfig, draw_count, draw_rig, fitted, measured_count
from liftstudio.training.solids import Solid, procedural_solid

Licences = Literal["permissive", "others", "any"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass
class DataConfig:
    """Training objects and how they are rendered."""

    captures: str = ""  # your own renders: a folder with a capture in each sub-folder, or a single capture
    captures_up: Literal["z", "cameras"] = "z"  # up of captures: the z axis, or the cameras' mean up (for COLMAP)
    objects: str = ""  # real meshes: a folder with packs and catalog.csv, or with your GLB, OBJ or PLY files
    objects_share: UnitFloat = 0.85  # share of real meshes if `objects` is set; the rest is procedural
    licences: Licences = "permissive"  # of the catalogue to use; permissive: they require at most attribution
    weights: dict[str, NonNegativeFloat] = field(default_factory=dict)  # sampling weight of a mesh, by pack; default 1
    augment: bool = True  # vary colours, and blur the input view; only if `objects` is set
    toys: UnitFloat = 1.0  # share of toy figures among procedural objects; the rest are free composites
    patterned: UnitFloat = 0.0  # share of procedural objects with a high-contrast pattern on every part
    pool: NonNegativeInt = 0  # samples rendered once and kept in memory to repeat, without their shape; 0: all are new
    resolution: Annotated[int, Range(16, multiple_of=8)] = 64  # image width and height in pixels
    rig: RigConfig = field(default_factory=RigConfig)  # cameras; for captures, only the number of views applies

    def __post_init__(self) -> None:
        if self.captures and self.objects:
            raise InputError("data: give captures or objects, not both")


@dataclass(frozen=True)
class Sample:
    """One object with an input view and V views, in the frame in which the input view has azimuth 0.

    input_image: [R, R, 4] rgb composited over white, and alpha, in [0, 1]. images: [V, R, R, 4] the same for the views.
    depths: [V, R, R, 1] z-depth in world units, 0 on the background; for captures up to scale and shift, or None.
    object: the procedural object in canonical pose, to be rotated by the rig's `front_deg` about z, or None.
    solid: the object's interior, in the frame of the cameras; None if its shape is not known.
    """

    rig: Rig
    input_image: Tensor
    images: Tensor
    depths: Tensor | None
    object: TexturedObject | None
    solid: Solid | None


class SampleSource(ABC):
    """A source of samples. Either all of its samples have a known shape or none has, and likewise for depths."""

    @abstractmethod
    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """Return training sample `number` with `views` views; all randomness comes from `generator`."""

    @abstractmethod
    def unseen(self, number: int) -> Sample:
        """Return evaluation sample `number`, always the same; its object is never trained on."""


class ProceduralObjects(SampleSource):
    """Toy figures and free composites, generated and rendered on the fly."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """See `SampleSource.training`."""
        kind = KINDS[int(torch.rand((), generator=generator) >= self.config.toys)]
        return draw_sample(kind, split(number, kind, "train"), self.config, views, generator)

    def unseen(self, number: int) -> Sample:
        """See `SampleSource.unseen`; the object is of the kind that is more frequent in training."""
        kind = KINDS[self.config.toys < 0.5]
        views = measured_count(self.config.rig)
        generator = torch.Generator().manual_seed(number)
        return draw_sample(kind, split(number, kind, "unseen"), self.config, views, generator)


class Pool(SampleSource):
    """A number of samples of another source, which repeat in random order; their shapes and depths are left out."""

    def __init__(self, source: SampleSource, size: int) -> None:
        self.source, self.size = source, size
        self.kept: dict[int, tuple[Rig, Tensor, Tensor]] = {}  # images as uint8
        self.round, self.order = -1, torch.zeros(0)

    def training(self, number: int, views: int, generator: torch.Generator) -> Sample:
        """See `SampleSource.training`; a sample does not depend on when it is first asked for."""
        index = self._index(number)
        if index not in self.kept:
            sample = self.source.training(index, views, torch.Generator().manual_seed(index))
            self.kept[index] = sample.rig, _bytes(sample.input_image), _bytes(sample.images)
        rig, input_image, images = self.kept[index]
        return Sample(rig, input_image.float() / 255, images.float() / 255, None, None, None)

    def _index(self, number: int) -> int:
        """Return the place in the pool of training sample `number`; every round has its own order."""
        this, place = divmod(number, self.size)
        if this != self.round:
            self.round, self.order = this, torch.randperm(self.size, generator=torch.Generator().manual_seed(this))
        return int(self.order[place])

    def unseen(self, number: int) -> Sample:
        """See `SampleSource.unseen`."""
        return self.source.unseen(number)


def _bytes(images: Tensor) -> Tensor:
    return (255 * images).round().byte()


def draw_sample(kind: Kind, seed: int, config: DataConfig, views: int, generator: torch.Generator) -> Sample:
    """Return the object of a seed, rendered with a random rig of `views` views."""
    obj = make_object(kind, seed)
    if config.patterned and torch.rand((), generator=generator) < config.patterned:
        obj = patterned(obj, seed)
    rig = draw_rig(config.rig, views, config.resolution, generator)
    if config.rig.shift:  # without a shift, every camera sees the whole object
        rig = fitted(rig, torch.from_numpy(obj.vertices), 0.0)
    return view_object(obj, rig)


def view_object(obj: TexturedObject, rig: Rig) -> Sample:
    """Render an object, its front at azimuth `rig.front_deg`, with the cameras of the rig."""
    input_view, views = (render(obj, turned(cameras, -rig.front_deg)) for cameras in (rig.input_camera, rig.views))
    rgba = [torch.cat([image.rgb, image.alpha], dim=-1) for image in (input_view, views)]
    return Sample(rig, rgba[0][0], rgba[1], views.depth, obj, procedural_solid(obj, rig.front_deg))


class TrainingBatches(Dataset[dict[str, Tensor]]):
    """Batches of samples from a source, made by `prepare`."""

    def __init__(
        self,
        source: SampleSource,
        rig: RigConfig,
        batch_size: int,
        extra_views: int,
        prepare: Callable[[list[Sample], torch.Generator], dict[str, Tensor]],
    ) -> None:
        """extra_views: number of views per sample in addition to the number drawn for its batch."""
        self.source, self.rig, self.batch_size, self.extra_views = source, rig, batch_size, extra_views
        self.prepare = prepare

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return batch `index`."""
        generator = torch.Generator().manual_seed(index)
        views = draw_count(self.rig, generator) + self.extra_views
        numbers = range(index * self.batch_size, (index + 1) * self.batch_size)
        return self.prepare([self.source.training(number, views, generator) for number in numbers], generator)
