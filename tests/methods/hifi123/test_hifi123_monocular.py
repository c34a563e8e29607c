"""Monocular estimators: the meaning of each network's output, alignment with the image, and rejected networks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import write_estimator, write_marigold, write_normals
from helpers.tiny_sv3d import randomize
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.methods.hifi123 import monocular
from liftstudio.methods.hifi123.depth import depth_channel

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def depth_of(folder: str) -> Any:
    return monocular.DepthEstimator(folder, device=CPU)


def pictures(count: int = 2) -> Tensor:
    """Return random images with 8-bit values, as in files."""
    return torch.randint(256, (count, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(SEED)) / 255


def write_zoe(folder: Path) -> Any:
    """Write a random ZoeDepth with its preprocessing, which pads images by a mirrored border; return the network."""
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation, ZoeDepthImageProcessor

    backbone = BeitConfig(
        image_size=SIZE,
        patch_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        use_relative_position_bias=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    widths: dict[str, Any] = {"neck_hidden_sizes": [8] * 4, "fusion_hidden_size": 8, "bottleneck_features": 8}
    heads: dict[str, Any] = {"num_relative_features": 4, "bin_embedding_dim": 8, "num_attractors": [4, 2, 2, 1]}
    network = ZoeDepthForDepthEstimation(ZoeDepthConfig(backbone_config=backbone, **widths, **heads))
    randomize(network, torch.Generator().manual_seed(SEED)).save_pretrained(folder)
    ZoeDepthImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return network.eval()


def write_depth_pro(folder: Path) -> Any:
    """Write a random Depth Pro with DPT's preprocessing, as its own needs torchvision; return the network."""
    from transformers import DepthProConfig, DepthProForDepthEstimation, DPTImageProcessor

    tower = {"model_type": "dinov2", "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 2, "intermediate_size": 16}
    scales: dict[str, Any] = {"scaled_images_ratios": [0.5, 1.0], "scaled_images_overlap_ratios": [0.0, 0.5]}
    widths: dict[str, Any] = {"scaled_images_feature_dims": [8, 8], "intermediate_feature_dims": [8, 8]}
    config = DepthProConfig(
        patch_size=16,
        fusion_hidden_size=8,
        intermediate_hook_ids=[1, 0],
        merge_padding_value=0,
        **{f"{name}_model_config": dict(tower) for name in ("image", "patch", "fov")},
        **scales,
        **widths,
    )
    network: Any = randomize(DepthProForDepthEstimation(config), torch.Generator().manual_seed(SEED))
    torch.nn.init.constant_(network.head.layers[-2].bias, 50.0)  # before a last ReLU
    network.save_pretrained(folder)
    DPTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return network.eval()


@torch.no_grad()
def test_zoe_depth_is_aligned_with_the_image() -> None:
    """The network sees the image without the mirrored border, so map and mask are aligned."""
    network, images = write_zoe(Path("zoe")), pictures()
    estimator = depth_of("zoe")
    found = estimator(images)
    assert estimator.meaning == "distance" and found.shape == (2, SIZE, SIZE, 1)
    wanted = network(2 * images.permute(0, 3, 1, 2) - 1).predicted_depth
    assert wanted.std() > 1e-3, f"a flat map is in line with anything, seed {SEED}"
    torch.testing.assert_close(found[..., 0], wanted, rtol=1e-3, atol=1e-4, msg=f"seed {SEED}")


@torch.no_grad()
def test_depth_pro_is_large_where_near() -> None:
    """The channel equals that of the distance from its post-processing."""
    network, images = write_depth_pro(Path("pro")), pictures()
    estimator = depth_of("pro")
    found, masks = estimator(images), torch.ones(2, SIZE, SIZE, 1)
    inverse = network(2 * images.permute(0, 3, 1, 2) - 1).predicted_depth[..., None]
    distance = 1 / inverse.clamp(1e-4, 1e4)
    assert inverse.min() > 1, f"seed {SEED}"
    by_distance = depth_channel(distance, masks, (16, 16), "distance")
    torch.testing.assert_close(
        depth_channel(found, masks, (16, 16), estimator.meaning), by_distance, rtol=0, atol=1e-2, msg=f"seed {SEED}"
    )


def drop(folder: str, part: str) -> list[str]:
    """Remove the weights with `part` in their name from a folder, and return their names."""
    path = Path(folder) / "model.safetensors"
    state = load_file(path)
    dropped = [name for name in state if part in name]
    save_file({name: tensor for name, tensor in state.items() if name not in dropped}, path, metadata={"format": "pt"})
    return dropped


def test_a_missing_weight_is_refused_unless_it_is_never_used() -> None:
    """As in Intel's DPT hybrid, whose first fusion layer lacks the weights that it does not use."""
    write_estimator(Path("dpt"), SEED)
    wanted = depth_of("dpt")(pictures())
    assert drop("dpt", "fusion_stage.layers.0.residual_layer1.")
    assert torch.equal(depth_of("dpt")(pictures()), wanted), f"seed {SEED}"
    name = drop("dpt", "fusion_stage.layers.1.residual_layer1.convolution1.weight")[0]
    with pytest.raises(InputError, match=f"estimator: dpt: the weight '{name}' is missing"):
        depth_of("dpt")


def without(option: str) -> Callable[[], None]:
    def spoil() -> None:
        path = Path("normals/model_index.json")
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != option}))

    return spoil


def to_depth() -> None:
    write_marigold(Path("normals"), SEED, "depth")


MARIGOLD: dict[str, tuple[str, Callable[[], None], str]] = {
    "normals as depth": (
        "DepthEstimator",
        lambda: None,
        "estimator: normals: expected a MarigoldDepthPipeline, got a MarigoldNormalsPipeline",
    ),
    "depth as normals": (
        "NormalEstimator",
        to_depth,
        "estimator: normals: expected a MarigoldNormalsPipeline, got a MarigoldDepthPipeline",
    ),
    "no steps": ("NormalEstimator", without("default_denoising_steps"), "json: default_denoising_steps is missing"),
    "no size": (
        "NormalEstimator",
        without("default_processing_resolution"),
        "processing_resolution is missing",
    ),
}


@pytest.mark.parametrize(("kind", "spoil", "message"), MARIGOLD.values(), ids=MARIGOLD)
def test_marigold_of_another_kind_or_without_defaults(kind: str, spoil: Callable[[], None], message: str) -> None:
    write_normals(Path("normals"), SEED, SIZE)
    spoil()
    with pytest.raises(InputError, match=message) as error:
        getattr(monocular, kind)("normals", device=CPU)
    assert "\n" not in str(error.value)
