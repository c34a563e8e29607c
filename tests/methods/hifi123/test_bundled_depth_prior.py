"""The bundled depth prior: complete, small, inverts unseen images, and transfers an image's colours to a view."""

from typing import Any

import pytest
import torch
from torch import Tensor

from liftstudio.core import assets
from liftstudio.methods.hifi123 import rgnv, training
from liftstudio.methods.hifi123.prior import GREY, DepthPrior
from liftstudio.metrics.images import masked_psnr
from liftstudio.training.data import DataConfig, ProceduralObjects, Sample
from liftstudio.training.rigs import RigConfig

FOLDER = assets.packaged("assets") / "priors" / "depth-tiny"
LEVELS = 12  # of a grid of 20 steps


@pytest.fixture(scope="module")
def prior() -> Any:
    return DepthPrior(DepthPrior.Config(), device=torch.device("cpu"))


def unseen(index: int, views: int = 1) -> Sample:
    """Return random views of a patterned toy."""
    rig = RigConfig(views=(views, views), orbit_share=0.0)
    return ProceduralObjects(DataConfig(toys=1.0, patterned=1.0, resolution=64, rig=rig)).unseen(index)


def over_grey(sample: Sample) -> tuple[Tensor, Tensor]:
    """Return images over grey, and masks."""
    return training.before(GREY, sample.images), sample.images[..., 3:]


def test_the_folder_is_small_and_documented(prior: Any) -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    assert "TODO" not in (FOLDER / "README.md").read_text()
    assert prior.resolution == 64 and prior.side == 32


@torch.no_grad()
def test_unseen_pictures_come_back_from_their_noise(prior: Any) -> None:
    """Inverted and sampled back they are hardly worse than decoded latents, which have about 25 dB."""
    samples = [unseen(index) for index in range(2)]
    images, masks = (torch.cat(maps) for maps in zip(*map(over_grey, samples), strict=True))
    depths = torch.cat([training.view_depths(sample, prior.side) for sample in samples])
    latents = prior.encode(images)
    back = training.reconstructed(prior, latents, depths, 20, LEVELS)
    coded, found = (masked_psnr(prior.decode(each), images, masks).mean() for each in (latents, back))
    assert coded > 22 and found > coded - 1.5


@torch.no_grad()
def test_a_view_takes_on_the_colours_of_the_picture(prior: Any) -> None:
    """A view with dimmed and shifted colours gets closer to the true one."""
    gains = []
    form, grid, prompts = rgnv.Form.symmetric(LEVELS // 2, guidance_scale=1.0), prior.grid(10), prior.prompts("")
    for index in range(4):
        sample = unseen(index, views=2)
        images, masks = over_grey(sample)
        depths = training.view_depths(sample, prior.side)
        wrong = images[1:] * (1 - masks[1:]) + (0.75 * images[1:] + torch.tensor([0.1, 0.0, 0.2])) * masks[1:]
        latents = prior.encode(torch.cat([images[:1], wrong.clamp(0, 1)]))
        reference = rgnv.prepare_reference(prior.unet, latents[:1], depths[:1], prompts.empty, grid, form)
        enhanced = rgnv.enhance(prior.unet, latents[1:], depths[1:], prompts, reference, grid, form)
        before, after = (masked_psnr(prior.decode(each), images[1:], masks[1:]) for each in (latents[1:], enhanced))
        gains.append((after - before).item())
    assert torch.tensor(gains).mean() > 0.5
