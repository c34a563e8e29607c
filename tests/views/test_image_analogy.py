"""Image analogies: detail of the input image reappears in blurred views; outlines and the input view stay."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_prior import TinyBall
from torch import Tensor

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import resize_area, resize_lanczos
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.image_analogy import PATCH, ImageAnalogy

SEED = fresh_seed(__name__)
SMALL, SCALE = 16, 4  # pixels across the prior's views, and how much they are enlarged
SIZE = SMALL * SCALE


@pytest.fixture
def analogy() -> ImageAnalogy:
    return ImageAnalogy(ImageAnalogy.Config(), device=torch.device("cpu"))


def picture() -> Tensor:
    """Return an image [SIZE, SIZE, 3] with detail that is lost at SMALL pixels."""
    generator = torch.Generator().manual_seed(SEED)
    coarse = 0.2 + 0.6 * torch.rand(SMALL, SMALL, 3, generator=generator)
    detail = 0.4 * torch.rand(SIZE, SIZE, 3, generator=generator) - 0.2
    return coarse.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1) + detail


def blurred(image: Tensor) -> Tensor:
    """Return what a prior of SMALL pixels generates."""
    return resize_area(image, SMALL, SMALL)


def as_views(images: Tensor, masks: Tensor, inputs: tuple[int, ...] = (0,)) -> ReferenceViews:
    """Return views of which `inputs` are the input views."""
    count, size = images.shape[:2]
    angles = torch.linspace(0, 90, count), torch.zeros(count)
    return ReferenceViews(
        images,
        masks,
        orbit_cameras(*angles, 3.6, 33.8, size, size),
        tuple(f"{index}.png" for index in range(count)),
        torch.zeros(count, dtype=torch.bool),
        input_views=inputs,
    )


def with_alpha(image: Tensor, alpha: float = 1.0) -> Tensor:
    """Return an image over white with that alpha everywhere, as `own` is given."""
    return torch.cat([alpha * image + 1 - alpha, torch.full_like(image[..., :1], alpha)], dim=-1)


def test_a_moved_surface_gets_its_detail_back(analogy: ImageAnalogy) -> None:
    sharp = picture()
    rows, columns = (random.randint(1, 3) for _ in range(2))
    moved = sharp.roll((rows * SCALE, columns * SCALE), (0, 1))
    generated = resize_lanczos(blurred(moved), SIZE, SIZE).clamp(0, 1)
    views = as_views(torch.stack([sharp, generated]), torch.ones(2, SIZE, SIZE, 1))
    found = analogy.repaint(views, with_alpha(blurred(sharp)))[1]
    # Patches that touch the seam of the roll, or the replicated border, are not in the picture.
    border = (2 * (PATCH // 2) + 1) * SCALE
    inside = slice(border + rows * SCALE, -border), slice(border + columns * SCALE, -border)
    assert (generated - moved)[inside].abs().max() > 0.1
    torch.testing.assert_close(found[inside], moved[inside], atol=2e-6, rtol=0)  # copies, averaged in float32


def test_detail_comes_from_every_input_view(analogy: ImageAnalogy) -> None:
    front, back = picture(), picture().flip(1)
    generated = resize_lanczos(blurred(back), SIZE, SIZE).clamp(0, 1)
    images, masks = torch.stack([front, generated, back]), torch.ones(3, SIZE, SIZE, 1)
    found = analogy.repaint(as_views(images, masks, inputs=(0, 2)), with_alpha(blurred(front)))[1]
    border = PATCH * SCALE
    inside = slice(border, -border), slice(border, -border)
    assert (generated - back)[inside].abs().max() > 0.1
    torch.testing.assert_close(found[inside], back[inside], atol=2e-3, rtol=0)


def test_the_prior_s_own_view_teaches_its_colours(analogy: ImageAnalogy) -> None:
    """A prior that halves all colours makes halved views, which get the picture's colours."""
    sharp = picture()
    generated = resize_lanczos(0.5 * blurred(sharp), SIZE, SIZE).clamp(0, 1)
    views = as_views(torch.stack([sharp, generated]), torch.ones(2, SIZE, SIZE, 1))
    found = analogy.repaint(views, with_alpha(0.5 * blurred(sharp)))[1]
    torch.testing.assert_close(found, sharp, atol=2e-6, rtol=0)


@pytest.mark.parametrize("own_alpha", [0.0, 0.3, 1.0])
def test_faint_views_are_repainted(analogy: ImageAnalogy, own_alpha: float) -> None:
    """No mask has to be solid anywhere; an own view that shows nothing teaches positions alone."""
    sharp = picture()
    masks = torch.stack([torch.ones(SIZE, SIZE, 1), torch.full((SIZE, SIZE, 1), 0.2)])
    found = analogy.repaint(as_views(torch.stack([sharp, sharp.flip(0)]), masks), with_alpha(blurred(sharp), own_alpha))
    assert found.shape == (2, SIZE, SIZE, 3) and found.isfinite().all()
    assert found.min() >= 0 and found.max() <= 1 and found[1].std() > 0.1 * (own_alpha > 0)


@pytest.mark.parametrize("size", [40, SIZE, 70])
def test_sizes_need_not_be_multiples_of_the_prior_s(analogy: ImageAnalogy, size: int) -> None:
    image = resize_lanczos(picture(), size, size).clamp(0, 1)
    views = as_views(torch.stack([image, image.flip(1)]), torch.ones(2, size, size, 1))
    assert analogy.repaint(views, with_alpha(blurred(image))).shape == (2, size, size, 3)


def test_views_at_the_prior_s_resolution_stay(analogy: ImageAnalogy, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "liftstudio")
    views = as_views(torch.rand(2, SIZE, SIZE, 3), torch.ones(2, SIZE, SIZE, 1))
    assert torch.equal(analogy.repaint(views, torch.rand(SIZE, SIZE, 4)), views.images)
    assert "keep their detail" in caplog.text


@pytest.mark.parametrize("name", ["sv3d-views", "syncdreamer-views"])
def test_sources_repaint_inside_the_masks_alone(name: str, ball_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    registry.load_methods()

    def make(**options: Any) -> ReferenceViews:
        data = {"image": "ball.png", "steps": 2, "resolution": 4 * 32, **options}
        data["prior"] = {"type": "tiny-ball", "weights": "ball.safetensors"}
        data |= {"orbit": {"frames": 4}} if name == "sv3d-views" else {"count": 3, "instances": 1}
        source = registry.find(name, "views")
        return source(parse(data, source.Config, "views"), device=torch.device("cpu")).load()

    plain, enhanced = make(), make(enhance={"type": "image-analogy"})
    assert torch.equal(enhanced.masks, plain.masks) and enhanced.input_view == plain.input_view
    assert torch.equal(enhanced.images[plain.input_view], plain.images[plain.input_view])
    change = (enhanced.images - plain.images).abs()
    assert change[plain.masks.expand_as(change) == 0].max() == 0
    others = [index for index in range(len(plain)) if index != plain.input_view]
    solid = (plain.masks[others] == 1).expand_as(change[others])
    assert 1 / 255 < change[others][solid].mean() < 0.2
    again = make(enhance={"type": "image-analogy"})
    assert torch.equal(again.images, enhanced.images)
