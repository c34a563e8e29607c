"""Sources of samples that a config opens."""

from pathlib import Path
from typing import Any

import torch
from helpers.posed_toys import write_capture
from packed_meshes import FOLDER, SEED

from liftstudio.core.config import parse
from liftstudio.training.captures import Captures
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import ProceduralObjects
from liftstudio.training.loop import open_source
from liftstudio.training.meshes.source import MeshObjects


def test_what_a_config_opens(tmp_path: Path) -> None:
    def opened(**data: Any) -> object:
        return type(open_source(parse({"task": {"type": "toys"}, "data": data}, TrainingConfig), 1))

    assert opened() is ProceduralObjects
    assert opened(objects=str(FOLDER)) is MeshObjects
    write_capture(tmp_path / "one", SEED)
    assert opened(captures=str(tmp_path / "one"), rig={"views": [1, 2]}) is Captures


def test_the_toys_task_is_told_what_is_inside_a_mesh() -> None:
    config = parse({"task": {"type": "toys"}, "data": {"objects": str(FOLDER), "objects_share": 1}}, TrainingConfig)
    task: Any = config.task.build(config.data, torch.float32)
    generator = torch.Generator().manual_seed(SEED)
    sample = open_source(config, task.extra_views).training(0, 4, generator)
    inside = task.prepare([sample], generator)["inside"][0]
    size = task.config.size
    assert inside.shape == (size.grid,) * 3 and inside.dtype == torch.bool and sample.solid is not None
    axis = torch.linspace(-size.half_side, size.half_side, size.grid)
    k, j, i = inside.nonzero()[0].tolist()
    assert sample.solid.contains(torch.stack([axis[i], axis[j], axis[k]])[None]).all()
    assert 0.001 < inside.float().mean() < 0.6
