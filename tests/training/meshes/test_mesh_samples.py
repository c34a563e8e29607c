"""Samples of real meshes: mixture, prompts, augmentation."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from packed_meshes import SEED, WIDE_RIG, open_meshes, same, variants, write_folder

from liftstudio.core.config import parse
from liftstudio.data.cameras import turned
from liftstudio.synthetic.draws import Draws
from liftstudio.training.meshes.augmentation import augmented
from liftstudio.training.meshes.packs import StoredMesh, pack_of
from liftstudio.training.meshes.rendering import draw_lighting
from liftstudio.training.meshes.solids import Solids
from liftstudio.training.meshes.source import BORDER, view_mesh
from liftstudio.training.meshes.variation import varied
from liftstudio.training.rigs import RigConfig, draw_rig


def test_a_number_means_one_sample() -> None:
    first, second = (open_meshes(toys=0.5, rig=WIDE_RIG) for _ in range(2))
    for number in range(20):
        a, b = (s.training(number, 2, torch.Generator().manual_seed(SEED + number)) for s in (first, second))
        assert same(a, b)
        other = first.training(number, 2, torch.Generator().manual_seed(SEED - 1 - number))
        assert not torch.equal(a.images, other.images)


def test_mixture(meshes: list[StoredMesh], tmp_path: Path) -> None:
    """Shares of meshes and toys, and of packs by the weights of their meshes; within four standard deviations."""
    packs = [pack_of("rare", variants(meshes[0], 9)), pack_of("often", variants(meshes[4], 3))]
    packs.append(pack_of("never", variants(meshes[5], 3)))
    packs.append(pack_of("measured", variants(meshes[6], 1)))
    folder = write_folder(tmp_path / "packs", packs)
    options = {"weights": {"often": 6, "never": 0, "rare": 1, "measured": 0}, "resolution": 16, "augment": False}
    source = open_meshes(folder, objects_share=0.7, **options)
    expected = {
        pack.name: source.config.weights[pack.name] * sum(other is pack for other, _ in source.trained)
        for pack, _ in source.trained
    }
    generator, samples = torch.Generator().manual_seed(SEED), 200
    drawn = [source.training(number, 1, generator) for number in range(samples)]
    real = sum(sample.object is None for sample in drawn)
    assert abs(real - 0.7 * samples) < 4 * (0.21 * samples) ** 0.5
    places = torch.rand(20000, dtype=torch.float64, generator=generator) * source.until[-1]
    chosen = Counter(source.trained[i][0].name for i in torch.searchsorted(source.until, places, right=True).tolist())
    for name, weight in expected.items():
        share = weight / sum(expected.values())
        assert abs(chosen[name] - 20000 * share) <= 4 * (20000 * share * (1 - share)) ** 0.5
    assert all(sample.object is not None for sample in (open_meshes(folder, objects_share=0).training(i, 1, generator)
                                                        for i in range(5)))  # fmt: skip


def test_prompts_show_the_whole_mesh(meshes: list[StoredMesh], draws: Draws) -> None:
    generator = torch.Generator().manual_seed(SEED)
    config = parse(WIDE_RIG, RigConfig)
    drawn_back = 0
    for number in range(40):
        obj, rig = varied(meshes[number % 8], draws), draw_rig(config, 2, 48, generator)
        sample = view_mesh(meshes[number % 8], obj, draw_lighting(draws), rig, Solids())
        prompt = turned(sample.rig.input_camera, -sample.rig.front_deg)
        pixels, depth = prompt.project(torch.from_numpy(obj.vertices))
        assert depth.min() > 0 and pixels.min() > 48 * BORDER - 1e-3 and pixels.max() < 48 * (1 - BORDER) + 1e-3
        rgba = sample.input_image
        edge = torch.cat([rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]])
        assert (edge[:, 3] < 1).all()
        moved = float((sample.rig.input_camera.centers - rig.input_camera.centers).norm())
        drawn_back += moved > 0
        tight = min(float(pixels.min()), 48 - float(pixels.max())) - 48 * BORDER
        assert moved == 0 or abs(tight) < 1e-2  # no farther than necessary
        torch.testing.assert_close(sample.rig.input_camera.c2w[:, :3, :3], rig.input_camera.c2w[:, :3, :3])
    assert 0 < drawn_back < 40


def test_rolled_and_shifted_prompts() -> None:
    """Views are unchanged, and the input camera still looks along the same axis."""
    generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
    plain = draw_rig(RigConfig(lens_share=0), 3, 64, generators[0])
    askew = draw_rig(RigConfig(lens_share=0, roll_deg=20, shift=0.1), 3, 64, generators[1])
    assert torch.equal(plain.views.c2w, askew.views.c2w) and plain.front_deg == askew.front_deg
    torch.testing.assert_close(plain.input_camera.forward, askew.input_camera.forward)
    torch.testing.assert_close(plain.input_camera.centers, askew.input_camera.centers)
    cosine = float((plain.input_camera.c2w[0, :3, 0] * askew.input_camera.c2w[0, :3, 0]).sum())
    assert np.cos(np.radians(20)) - 1e-6 <= cosine < 1
    shift = torch.cat([askew.input_camera.cx, askew.input_camera.cy]) / 64 - 0.5
    assert 0 < shift.abs().max() <= 0.1


def test_augmentation_leaves_shape_and_cameras() -> None:
    """Colours may change, silhouettes only of input images; evaluation samples are unchanged."""
    plain, changed = (open_meshes(augment=flag, objects_share=1) for flag in (False, True))
    recolored = sharp = 0
    for number in range(40):
        a, b = (s.training(number, 2, torch.Generator().manual_seed(SEED + number)) for s in (plain, changed))
        assert torch.equal(a.rig.input_camera.c2w, b.rig.input_camera.c2w) and torch.equal(
            a.rig.views.c2w, b.rig.views.c2w
        )
        assert a.depths is not None and b.depths is not None and torch.equal(a.depths, b.depths)
        torch.testing.assert_close(a.images[..., 3], b.images[..., 3], atol=1e-6, rtol=0)
        recolored += (a.images - b.images).abs().max() > 0.01
        sharp += (a.input_image - b.input_image).abs().max() < 1e-5
    assert 5 < recolored < 30 and 3 < sharp < 25
    assert all(same(plain.unseen(number), changed.unseen(number)) for number in range(3))


def test_augmented_prompts_stay_pictures() -> None:
    generator = torch.Generator().manual_seed(SEED)
    prompt = open_meshes(objects_share=1, augment=False).training(0, 1, generator).input_image
    prompts, views = (torch.stack(one) for one in zip(*[augmented(prompt, prompt[None], generator) for _ in range(60)],
                                                      strict=True))  # fmt: skip
    assert prompts.shape == (60, 32, 32, 4) and views.shape == (60, 1, 32, 32, 4)
    for found in (prompts, views):
        assert found.min() >= 0 and found.max() <= 1 + 1e-6
    alpha = prompt[..., 3]
    far = torch.nn.functional.max_pool2d(alpha[None, None], 7, 1, 3)[0, 0] == 0
    assert (prompts[:, far][..., :3] == 1).all() and (prompts[:, far][..., 3] == 0).all()
    assert (prompts[..., 3] - alpha).abs().mean() < 0.05  # the shape stays
    mean = [found[..., :3].flatten(1, -2).mean(1) for found in (prompts, views)]
    assert (mean[0] - mean[1]).abs().max() < 0.01  # the prompt tells the views' colours
    assert mean[1].std(0).max() > 0.003
