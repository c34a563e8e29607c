"""Training the depth-conditioned prior: its batches, what it learns first, and that the prior opens its folder."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_sv3d import randomize
from helpers.tiny_training import close, config_of, draw_samples, read_log, task_of, trained_parts

from liftstudio.cli import command_line
from liftstudio.cli import package_prior as package
from liftstudio.cli.train_prior import main
from liftstudio.core import assets
from liftstudio.core.errors import InputError
from liftstudio.core.weights import check_packaged_folder
from liftstudio.methods.hifi123 import captions, checkpoint, model
from liftstudio.methods.hifi123.prior import DepthPrior
from liftstudio.priors.samplers import scaled_linear_alpha_bars
from liftstudio.synthetic import make_object, patterned, split
from liftstudio.synthetic.textures import Pattern
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import ProceduralObjects, Sample

SEED = fresh_seed(__name__, bits=24)
CONFIG = assets.packaged("configs") / "priors" / "depth-tiny.yaml"
SIZE, SIDE = 32, 8  # pixels across images and latents
TINY = [
    f"data.resolution={SIZE}",
    "task.size={widths: [16, 32], head_width: 16, autoencoder_widths: [8, 8, 16], text_width: 16}",
    "precision=float32",
    "batch_size=2",
    "steps=3",
    "workers=0",
    "log_every=1",
    "evaluated=2",
]


def tiny_config(*overrides: str) -> TrainingConfig:
    return config_of(CONFIG, [*TINY, *overrides])


def tiny_task(*overrides: str) -> Any:
    return task_of(tiny_config(*overrides), SEED)


def samples_of(count: int) -> list[Sample]:
    return draw_samples(tiny_config(), count, 2, SEED)


@pytest.mark.parametrize("kind", ["toy", "composite"])
def test_patterned_objects(kind: Any) -> None:
    """Every part has a pattern with stripes and cells of visible width; only appearance changes."""
    seed = split(SEED, kind, "train")
    plain = make_object(kind, seed)
    found, again, other = (patterned(plain, each) for each in (seed, seed, seed + 1))
    assert np.array_equal(found.vertices, plain.vertices) and found.light == plain.light
    assert set(found.patterns) <= {Pattern.STRIPES, Pattern.CHECKS, Pattern.SPOTS, Pattern.WAVES}
    assert np.array_equal(found.colors, again.colors) and not np.array_equal(found.colors, other.colors)
    looks = [np.column_stack([o.patterns, o.settings, o.colors.reshape(-1, 6)]) for o in (plain, found)]
    assert len(np.unique(looks[0], axis=0)) == len(np.unique(looks[1], axis=0))  # parts that matched still do
    for part in range(len(plain.patterns)):
        same = (looks[0] == looks[0][part]).all(1)
        assert (looks[1][same] == looks[1][part]).all()
    lengths = 2 / np.linalg.norm(found.frames[:, 2, :3], axis=1)
    first = np.unique(looks[0], axis=0, return_index=True)[1]  # widths are by the first part of each look
    widths = (lengths / found.settings[:, 0])[first]
    assert (widths < 0.45).all() and (widths > np.minimum(0.11, 0.49 * lengths[first])).all()  # stripes are rounded


def test_the_share_of_patterned_objects() -> None:
    """With a share of 0, objects are as without the option."""
    plain, all_patterned = (ProceduralObjects(tiny_config(f"data.patterned={share}").data) for share in (0, 1))
    for number in (SEED, SEED + 1):
        objects = [
            source.training(number, 1, torch.Generator().manual_seed(3)).object for source in (plain, all_patterned)
        ]
        assert objects[0] is not None and objects[1] is not None
        assert np.array_equal(objects[0].vertices, objects[1].vertices)
        assert (objects[1].patterns != Pattern.SOLID).all() and (objects[0].patterns == Pattern.SOLID).any()


def test_captions_are_what_the_tokenizer_reads(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    captions.write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(SEED)
    objects = [make_object("composite", split(SEED + n, "composite", "train")) for n in range(20)]
    texts = {captions.draw_caption(obj, generator) for obj in [*objects, None]} | {""}
    assert len(texts) > 5
    for text in texts:
        wanted = tokenizer(text, padding="max_length", max_length=77).input_ids
        assert captions.caption_tokens(text).tolist() == wanted
        assert len(tokenizer(text).input_ids) == 2 + len(text.split())  # one token per word
    assert len(tokenizer) == captions.vocabulary_size()
    owl = tokenizer("an owl!").input_ids
    assert tokenizer.convert_ids_to_tokens(owl[2:-1]) == ["o", "w", "l</w>", "!</w>"]


NAMES = {
    (0.05, 0.05, 0.08): "black", (0.5, 0.5, 0.5): "grey", (1, 1, 1): "white", (0.9, 0.1, 0.1): "red",
    (0.9, 0.1, 0.2): "red", (1, 0.5, 0): "orange", (0.9, 0.9, 0.1): "yellow", (0.1, 0.7, 0.2): "green",
    (0.1, 0.7, 0.7): "turquoise", (0.1, 0.2, 0.9): "blue", (0.5, 0.1, 0.9): "purple", (1, 0.3, 0.8): "pink",
}  # fmt: skip


@pytest.mark.parametrize("color", NAMES)
def test_color_names(color: tuple[float, float, float]) -> None:
    assert captions.color_name(*color) == NAMES[color]


def test_images_are_over_grey_with_their_depth() -> None:
    task = tiny_task("task.usual_grey=1", "task.mask_only=0", "task.drop_depth=0")
    samples = samples_of(2)
    batch = task.prepare(samples, torch.Generator().manual_seed(SEED))
    views = torch.cat([sample.images for sample in samples])
    rgb, alpha = views[..., :3].permute(0, 3, 1, 2), views[..., 3:].permute(0, 3, 1, 2)
    found = 0.5 + 0.5 * batch["images"]
    torch.testing.assert_close(found, rgb - 0.5 * (1 - alpha))  # over white, which contributes 1 - alpha
    assert batch["depths"].shape == (4, 1, SIDE, SIDE)
    assert (batch["depths"].amax((1, 2, 3)) == 1).all() and (batch["depths"].amin((1, 2, 3)) == -1).all()
    assert (batch["depths"][:, :, 0, 0] < -1 + 1e-4).all()  # a corner, behind the object; resizing rounds


def test_the_autoencoder_sees_parts_of_objects() -> None:
    """Each crop is inside its image and shows the object; with size 0 it is the whole image."""
    samples = samples_of(3)
    whole, parts = (
        tiny_task("task.part=autoencoder", f"task.crop={crop}", "task.usual_grey=1").prepare(samples, seeded(SEED))
        for crop in (0, 12)
    )
    assert whole["images"].shape[2:] == (SIZE, SIZE) and whole["noise"].shape[2:] == (SIDE, SIDE)
    assert parts["images"].shape == (6, 3, 12, 12) and parts["noise"].shape == (6, 4, 3, 3)
    alphas = torch.cat([sample.images for sample in samples])[..., 3]
    for image, part, alpha in zip(whole["images"], parts["images"], alphas, strict=True):
        windows = image.unfold(1, 12, 1).unfold(2, 12, 1).permute(1, 2, 0, 3, 4)
        places = (windows == part).flatten(2).all(-1)
        seen = (alpha > 0.5).float().unfold(0, 12, 1).unfold(1, 12, 1).mean((2, 3))
        assert places.any() and seen[places].max() > 0


def test_shares_of_greys_depths_texts_and_noise() -> None:
    """Counted over 300 images; tolerance: three and a half standard deviations."""
    task = tiny_task()
    samples = 150 * samples_of(1)
    batch = task.prepare(samples, torch.Generator().manual_seed(SEED))
    corners = (0.5 + 0.5 * batch["images"])[:, 0, 0, 0]
    has_none = (batch["depths"] == 0).all(1).all(1).all(1)
    is_mask = (batch["depths"].abs() == 1).all(1).all(1).all(1)
    is_empty = (batch["tokens"] == captions.caption_tokens("")).all(1)
    shares = {0.6: (corners - 0.5).abs() < 1e-6, 0.1: has_none, 0.25: is_mask, 0.10001: is_empty}
    for share, holds in shares.items():
        assert abs(float(holds.float().mean()) - share) < 3.5 * (share * (1 - share) / 300) ** 0.5
    assert corners.min() < 0.2 and corners.max() > 0.8
    ordered = batch["timesteps"].sort().values
    assert ((ordered * 300) // 1000 - torch.arange(300)).abs().max() <= 1  # one in each three-hundredth


def test_the_autoencoder_learns_alone_and_its_latents_are_of_unit_scale(tmp_path: Path) -> None:
    task = tiny_task("task.part=autoencoder")
    batch = task.prepare(samples_of(2), torch.Generator().manual_seed(SEED))
    optimizer = torch.optim.AdamW(task.network.vae.parameters(), lr=3e-3)
    totals = []
    for _ in range(25):
        losses = task.losses(batch)
        totals.append(float(sum(loss.detach() for loss in losses.values())))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(map(math.isfinite, totals)) and totals[-1] < 0.6 * totals[0]
    assert trained_parts(task) == {"vae"} == learning_parts(task)
    for number in range(60):  # moments average the last fifty steps
        with torch.no_grad():
            task.losses(batch | {"noise": torch.randn(batch["noise"].shape, generator=seeded(number))})
    prior = opened(task, tmp_path)
    latents = prior.encode((0.5 + 0.5 * batch["images"]).permute(0, 2, 3, 1))
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=0.4)  # 25 steps still contribute
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0.4, atol=0)


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def learning_parts(task: Any) -> set[str]:
    return {name.partition(".")[0] for name, p in task.network.named_parameters() if p.requires_grad}


def opened(task: Any, folder: Path) -> Any:
    task.save(task.network, folder / "model")
    return DepthPrior(DepthPrior.Config(weights=str(folder / "model")), device=torch.device("cpu"))


def test_the_unet_learns_with_the_text_tower(tmp_path: Path) -> None:
    task = tiny_task("task.part=autoencoder")
    task.save(task.network, tmp_path / "model")
    task = tiny_task("task.part=unet")
    batch = task.prepare(samples_of(2), seeded(SEED))
    with pytest.raises(InputError, match=r"start_from: expected the folder written with task.part=autoencoder"):
        task.losses(batch)
    task.load(str(tmp_path / "model"))
    optimizer = torch.optim.AdamW([p for p in task.network.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(25):
        loss = task.losses(batch)["noise"]
        totals.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert totals[-1] < 0.9 * totals[0]
    assert trained_parts(task) == {"unet", "text_encoder"} == learning_parts(task)


@torch.no_grad()
def test_the_folder_is_the_network_as_a_prior(tmp_path: Path) -> None:
    generator = seeded(SEED)
    task = tiny_task("task.part=unet")
    network = task.network
    randomize(network.unet, generator)
    randomize(network.text_encoder, generator)
    mean, deviation = torch.randn(4, generator=generator), torch.rand(4, generator=generator) + 0.5
    network.moments.copy_(torch.stack([mean, mean**2 + deviation**2]))
    prior = opened(task, tmp_path)
    assert (prior.resolution, prior.shrinkage) == (SIZE, SIZE // SIDE)
    prior.check("a red striped toy figure", 4, SIZE)

    batch = task.prepare(samples_of(2), generator)
    images = (0.5 + 0.5 * batch["images"]).permute(0, 2, 3, 1)
    own = network.vae.encode(batch["images"]).latent_dist.mode()
    latents = (own - mean[:, None, None]) / deviation[:, None, None]
    close(prior.encode(images), latents)
    close(prior.decode(latents), (network.vae.decode(own).sample.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1))

    text, timestep = "a red and blue striped toy figure", 301
    tokens = captions.caption_tokens(text).expand(len(images), -1)
    bar = scaled_linear_alpha_bars()[timestep]
    noisy = bar.sqrt() * latents + (1 - bar).sqrt() * batch["noise"]
    torch.testing.assert_close(task.noised(latents, batch["noise"], torch.full((len(images),), timestep)), noisy)
    states = torch.cat([noisy, batch["depths"]], 1)
    wanted = network.unet(states, timestep, network.text_encoder(tokens).last_hidden_state).sample
    prompts = prior.prompts(text)
    target = prompts.target.expand(len(images), -1, -1)
    found = model.estimate_epsilon(prior.unet, noisy, timestep, batch["depths"], target)
    close(found, wanted)

    back = tiny_task("task.part=unet")
    back.load(str(tmp_path / "model"))
    close(0.18215 * back.network.vae.encode(batch["images"]).latent_dist.mode(), latents)


def test_the_commands_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts, one after the other; the second keeps the first's autoencoder."""
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(CONFIG), *TINY, "name=coder", "task.part=autoencoder"]) == command_line.DONE
    assert (
        main(["--config", str(CONFIG), *TINY, "name=model", "start_from=runs/priors/coder/model"]) == command_line.DONE
    )
    figures = [read_log(Path(f"runs/priors/{name}/log.csv"))[-1] for name in ("coder", "model")]
    assert 3 < float(figures[0]["psnr_coded"]) < 60 and "psnr_inverted" not in figures[0]
    assert all(float(figures[1][name]) > 0 for name in ("psnr_coded", "psnr_inverted", "noise_100", "noise_600"))
    vaes = [Path(f"runs/priors/{name}/model/vae/diffusion_pytorch_model.safetensors") for name in ("coder", "model")]
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in vaes}) == 1
    steps = [float(row["noise"]) for row in read_log(Path("runs/priors/model/log.csv")) if row["stage"] == "train"]
    assert len(steps) == 3 and all(0 < value < 3 for value in steps)
    assert not [path for path in Path("runs/priors/model").iterdir() if path.name.endswith(".tmp")]


def test_packaged_folders_are_checked(tmp_path: Path) -> None:
    task = tiny_task()
    task.save(task.network, tmp_path / "model")
    place = tmp_path / "package"
    with pytest.raises(InputError, match="no digests in"):
        check_packaged_folder(place)
    assert package.main([str(tmp_path / "model"), str(place)]) == command_line.DONE
    check_packaged_folder(place)
    assert checkpoint.open_folder(str(place))
    vocabulary = place / "tokenizer" / "vocab.json"
    vocabulary.write_text(vocabulary.read_text() + " ")
    with pytest.raises(InputError, match=r"vocab\.json: damaged, its SHA-256 differs from .*SHA256SUMS"):
        check_packaged_folder(place)
    vocabulary.unlink()
    with pytest.raises(InputError, match=r"vocab\.json: damaged"):
        check_packaged_folder(place)


WRONG = {
    "task.size.widths=[32, 40]": "task.size.widths: expected multiples of 16, got 32, 40",
    "task.size.widths=[32]": "task.size.widths: expected at least 2 values, got 1",
    "task.size.autoencoder_widths=[6, 8]": "task.size.autoencoder_widths[0]: expected a multiple of 4, got 6",
    "task.size.text_width=15": "task.size.text_width: expected multiples of 2, got 15",
    "task.drop_depth=0.9": "task.drop_depth: expected 0 to 0.75, got 0.9",
    "task.crop=36": "task.crop: expected a multiple of 4 up to data.resolution, 32, or 0 for whole images, got 36",
    "task.crop=6": "task.crop: expected a multiple of 4 up to data.resolution, 32, or 0 for whole images, got 6",
    "data.resolution=36": "data.resolution: expected a multiple of 8 >= 16, got 36",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_options(override: str) -> None:
    with pytest.raises(InputError) as raised:
        tiny_task(override)
    assert str(raised.value) == WRONG[override]


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    task = tiny_task()
    task.save(task.network, tmp_path / "model")
    with pytest.raises(InputError, match=r"the weight '.*' (has shape .* of the network has|is missing)"):
        tiny_task("task.size.widths=[16, 48]").load(str(tmp_path / "model"))
