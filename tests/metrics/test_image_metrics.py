import json

import kornia
import numpy as np
import pytest
import torch
from helpers.paths import GOLDEN
from helpers.seeds import fresh_seed
from safetensors.torch import load_file
from torch import Tensor

from liftstudio.metrics.images import masked_psnr, psnr, ssim


def golden_pair() -> tuple[Tensor, Tensor]:
    tensors = load_file((GOLDEN / "metrics") / "g_metrics.safetensors")
    rgba, predicted = tensors["nvs_gt_rgba"][None] / 255.0, tensors["nvs_pr_rgb"][None] / 255.0
    alpha = rgba[..., 3:]
    return predicted, rgba[..., :3] * alpha + 1 - alpha


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Compute SSIM of one [H, W] plane window by window, straight from the paper."""
    offsets = np.arange(-5, 6)
    window = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / 1.5**2)
    window /= window.sum()
    a, b = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    values = []
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            covariance = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + 1e-4) * (2 * covariance + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


def test_golden_values() -> None:
    predicted, target = golden_pair()
    expected = json.loads(((GOLDEN / "metrics") / "g_metrics.json").read_text())["nvs"]
    assert psnr(predicted, target).item() == pytest.approx(expected["psnr"], abs=1e-3)
    # The golden value itself carries 6e-5 of float32 rounding: torchmetrics in float64 gives 0.87795.
    assert ssim(predicted, target).item() == pytest.approx(expected["ssim"], abs=1e-4)


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
@pytest.mark.parametrize("shape", [(1, 6, 13, 1), (2, 14, 9, 4)])
def test_ssim_equals_the_window_by_window_form(shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    planes = [[slow_ssim(x[b, ..., c].numpy(), y[b, ..., c].numpy()) for c in range(shape[3])] for b in range(shape[0])]
    assert torch.allclose(ssim(x, y), torch.tensor(planes).double().mean(1), atol=1e-12)
    assert torch.allclose(ssim(x.float(), y.float()).double(), ssim(x, y), atol=1e-5)  # float32 rounding / c2


def test_data_range_scales_with_the_values() -> None:
    x, y = torch.rand(2, 1, 16, 16, 3, dtype=torch.float64)
    assert torch.allclose(ssim(255 * x, 255 * y, data_range=255.0), ssim(x, y), atol=1e-12)


def test_equal_images() -> None:
    x = torch.rand(2, 16, 16, 3)
    assert torch.equal(ssim(x, x), torch.ones(2)) or torch.allclose(ssim(x, x), torch.ones(2), atol=1e-6)
    assert psnr(x, x).isposinf().all()


def test_psnr_is_per_image() -> None:
    target = torch.zeros(2, 4, 5, 3)
    image = target + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert torch.allclose(psnr(image, target), torch.tensor([20.0, 40.0]), atol=1e-4)


def test_ssim_gradient_also_at_flat_images() -> None:
    x, y = torch.rand(2, 1, 8, 7, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda image: ssim(image, y), x.requires_grad_())
    flat = torch.ones(1, 16, 16, 3, requires_grad=True)
    ssim(flat, torch.ones(1, 16, 16, 3)).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="target: expected shape"):
        psnr(torch.rand(1, 8, 8, 3), torch.rand(1, 8, 9, 3))
    with pytest.raises(ValueError, match="at least 6x6"):
        ssim(torch.rand(1, 5, 8, 3), torch.rand(1, 5, 8, 3))


def test_masked_psnr() -> None:
    """Only pixels inside the mask count."""
    seed = fresh_seed()
    generator = torch.Generator().manual_seed(seed)
    image, target = torch.rand(2, 3, 9, 7, 3, generator=generator)
    mask = torch.rand(3, 9, 7, 1, generator=generator)
    mask[2] = 0.4
    found = masked_psnr(image, target, mask)
    for index in range(2):
        inside = mask[index, ..., 0] > 0.5
        wanted = psnr(image[index][inside][None, :, None], target[index][inside][None, :, None])
        torch.testing.assert_close(found[index], wanted[0], msg=f"seed {seed}")
    assert found[2].isnan()
    torch.testing.assert_close(masked_psnr(image, target, torch.ones_like(mask)), psnr(image, target))
    with pytest.raises(ValueError, match="mask"):
        masked_psnr(image, target, mask[:2])


@pytest.mark.parametrize("size", [(16, 16), (40, 53)])
def test_ssim_is_kornias(size: tuple[int, int]) -> None:
    """Values and gradients equal kornia's, which is slower at the sizes of training steps."""
    image, target = torch.rand(2, 2, *size, 3, dtype=torch.float64)
    image = image.requires_grad_()
    planes = (each.permute(0, 3, 1, 2) for each in (image, target))
    expected = kornia.metrics.ssim(*planes, window_size=11, padding="same").mean(dim=(1, 2, 3))
    ours = ssim(image, target)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    gradients = [torch.autograd.grad(value.sum(), image, retain_graph=True)[0] for value in (ours, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)
