"""The options of the stages of a run, and their checks."""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from liftstudio.core.config import ComponentSpec, option_key
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import PositiveInt, check_ranges
from liftstudio.core.registry import find
from liftstudio.core.schedules import Schedule
from liftstudio.core.shares import Share
from liftstudio.geometry.base import PRIOR, Geometry
from liftstudio.systems import regularizers
from liftstudio.systems.optimization import OptimizerConfig
from liftstudio.systems.regularizers import Regularizers

T = TypeVar("T")


@dataclass
class StageConfig:
    """One stage: what is optimised, how it is rendered and by which losses."""

    steps: PositiveInt  # optimisation steps
    geometry: Annotated[ComponentSpec, "geometry"]  # representation of the shape
    renderer: Annotated[ComponentSpec, "renderer"]  # how it is rendered
    guidance: dict[str, Annotated[ComponentSpec, "guidance"]]  # name in the logs -> source of cameras and losses
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # learning rates
    regularizers: Regularizers = field(default_factory=Regularizers)  # losses in addition to those of the guidance
    volume: Literal["any", "required", "absent"] = "any"  # of the prior; unsuited stages are left out


def geometry_options(stages: dict[str, StageConfig], stage: str) -> ComponentSpec:
    """Return a stage's geometry options, completed from those of the geometry that it starts `from`.

    Raises:
        InputError: it cannot start from such a geometry.
    """
    block = stages[stage].geometry
    if block.options.from_ in ("", PRIOR):
        return block
    source = geometry_options(stages, block.options.from_).options
    try:
        return dataclasses.replace(block, options=block.options.following(source))
    except InputError as error:
        raise InputError(f"system.stages.{stage}.geometry.{error}") from None


def suited_stages(stages: dict[str, StageConfig], *, has_volume: bool) -> dict[str, StageConfig]:
    """Return the stages that views with or without a volume go through; there may be none."""
    left_out = "absent" if has_volume else "required"
    return {name: stage for name, stage in stages.items() if stage.volume != left_out}


def with_sizes(value: T, width: int, path: str) -> T:
    """Return options, or a part of them, with a number for every `Share` of the reference views' width.

    width: pixels; 0: there are no reference views. path: dotted path of the value.

    Raises:
        InputError: there is a share but no view, or the number is out of the option's range.
    """
    if isinstance(value, Share):
        if not width:
            raise InputError(f"{path}: {value} is a share of the reference views' width; without them give a number")
        return typing.cast(T, value.of(width))
    if isinstance(value, ComponentSpec):
        return dataclasses.replace(value, options=with_sizes(value.options, width, path))
    if isinstance(value, dict):
        return typing.cast(T, {key: with_sizes(item, width, f"{path}.{key}") for key, item in value.items()})
    if isinstance(value, list):
        return typing.cast(T, [with_sizes(item, width, f"{path}[{i}]") for i, item in enumerate(value)])
    if not dataclasses.is_dataclass(value) or isinstance(value, type | Schedule):
        return value
    before = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    after = {name: with_sizes(item, width, f"{path}.{option_key(name)}") for name, item in before.items()}
    if after == before:
        return value
    try:
        sized = dataclasses.replace(value, **after)
    except InputError as error:  # of the dataclass's own checks
        raise InputError(f"{path}.{error}") from None
    check_ranges(sized, type(sized), path)
    return sized


def check_stages(stages: dict[str, StageConfig], *, has_volume: bool) -> None:
    """Check that the stages for views with or without a volume can follow each other, and the parts of each.

    Raises:
        InputError: they are not compatible; names the option.
    """
    if not stages:
        raise InputError("system.stages: expected at least one stage")
    suited = suited_stages(stages, has_volume=has_volume)
    if not suited:
        state = "a volume" if has_volume else "no volume"
        raise InputError(f"system.stages: none is for views with {state}; see the option 'volume' of each")
    before = ""
    for name, stage in suited.items():
        where, source = f"system.stages.{name}", stage.geometry.options.from_
        if name == PRIOR:
            raise InputError(f"{where}: '{PRIOR}' means the prior's volume in `from`; give the stage another name")
        if not stage.guidance:
            raise InputError(f"{where}.guidance: expected at least one guidance")
        if source == PRIOR:
            _check_volume(stage.geometry.type, f"{where}.geometry.from", has_volume=has_volume)
        elif source:
            _check_source(source, before, stage.geometry.type, f"{where}.geometry.from")
        _check_renderer(stage, where)
        _check_guidance(stage, where)
        _check_regularizers(stage, where)
        before = name


def _check_volume(kind: str, where: str, *, has_volume: bool) -> None:
    """Check that a geometry of this kind can start from the volume of the prior, and that there is one."""
    if find(kind, "geometry").initialize_inside is Geometry.initialize_inside:
        raise InputError(f"{where}: '{kind}' cannot start from the volume of a prior")
    if not has_volume:
        raise InputError(
            f"{where}: there is no volume to start from; use a prior that has one, as asset://priors/objects has, "
            "or a stage before this one"
        )


def _check_source(source: str, before: str, kind: str, where: str) -> None:
    """Check that a geometry of this kind can start from `source`, after the stage `before` (empty: the first stage)."""
    if source != before:
        wanted = (
            f"'{before}', the previous stage, or '{PRIOR}'" if before else f"'{PRIOR}', since this is the first stage"
        )
        raise InputError(f"{where}: expected {wanted}, got '{source}'")
    if find(kind, "geometry").initialize is Geometry.initialize:
        raise InputError(f"{where}: '{kind}' cannot start from another geometry")


def _check_renderer(stage: StageConfig, where: str) -> None:
    geometry = find(stage.geometry.type, "geometry")
    fitting = "volume" if geometry.is_volume() else "surface"
    if stage.renderer.type in ("volume", "surface") and stage.renderer.type != fitting:
        raise InputError(f"{where}.renderer: '{stage.geometry.type}' is a {fitting}; render it with '{fitting}'")
    if stage.renderer.type == "neus" and not geometry.is_signed_distance():
        what = f"'{stage.geometry.type}' has no signed distance at arbitrary points"
        raise InputError(f"{where}.renderer: {what}; render it with '{fitting}'")


def _check_guidance(stage: StageConfig, where: str) -> None:
    is_volume = find(stage.geometry.type, "geometry").is_volume()
    for name, block in stage.guidance.items():
        if is_volume and not getattr(block.options, "generated_shape", True):
            reason = f"since '{stage.geometry.type}' is a volume, whose colours and shape are one field"
            raise InputError(f"{where}.guidance.{name}.generated_shape: expected true, {reason}")


def _check_regularizers(stage: StageConfig, where: str) -> None:
    try:
        regularizers.check_regularizers(stage.regularizers, find(stage.geometry.type, "geometry"))
    except InputError as error:
        raise InputError(f"{where}.regularizers.{error}") from None
    moves_shape = getattr(stage.renderer.options, "normal_gradients", True)
    if not moves_shape and not stage.regularizers.lambda_orientation.is_zero():
        raise InputError(f"{where}.renderer.normal_gradients: expected true, since lambda_orientation needs it")
