"""The SyncDreamer and HarmonyView port compared with the official code, also on cases in LIFTSTUDIO_GOLDEN.

A case folder has a `config.json` with the sizes of one or more networks by their names (`n4`, `n16`) and safetensors
files; every file whose name fits a pattern below is a case. A file is of the network in its name, `n4` of
`e_denoise_n4_seed3`; if several have as many views as a case, its name must tell. Weights are in `weights*` and
`buffers*` files: those that name no network are for all. Those of another network count where there are no others:
weights if it differs in its number of views alone, buffers if it has equal cameras. All sizes come from the config.
"""

import functools
import json
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.golden_data import Listed, close, files_of, golden_root, parameters, unpacked
from helpers.paths import GOLDEN
from helpers.tiny_syncdreamer import FOV_DEG, NUMBERS, official_cameras
from safetensors.torch import load_file, save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import orbit_cameras
from liftstudio.methods.syncdreamer import checkpoint, denoising, layout
from liftstudio.methods.syncdreamer.denoising import decomposed
from liftstudio.methods.syncdreamer.preparation import framed
from liftstudio.methods.syncdreamer.prior import SyncDreamer
from liftstudio.methods.syncdreamer.rig import Rig, vertices
from liftstudio.methods.syncdreamer.unet import DepthTransformer
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.parameterization import sigma_from_alpha_bar
from liftstudio.priors.samplers import ancestral, ddim_sigmas

BUNDLED = GOLDEN / "syncdreamer" / "golden.tar.xz"
CPU = torch.device("cpu")
# Absolute tolerances that the data's own description states for a port in float32 on a CPU. Two convolution backends
# of one machine are 3e-6 apart in features and noise, 4e-5 in guided noise and loops; guidance multiplies by 3 to 7.
GEOMETRY, FEATURES, GUIDED = 1e-5, 5e-5, 5e-4
USUAL_STEPS = 50  # number of steps of the table for single-step cases
Case = dict[str, Tensor]


@functools.cache
def networks_of(folder: Path) -> dict[str, Any]:
    """Return name -> sizes, fewest views first; a config of one network may omit its name."""
    config = json.loads((folder / "config.json").read_text())
    named = {"": config, **config} if isinstance(config, dict) else {}
    networks = {name: sizes for name, sizes in named.items() if isinstance(sizes, dict) and "view_num" in sizes}
    return dict(sorted(networks.items(), key=lambda network: network[1]["view_num"]))


def named_networks(path: Path) -> list[str] | None:
    """Return the network in a file's name, or those with its number of views (`_n8`); None: it has neither."""
    networks, stem = networks_of(path.parent), f"{path.stem}_"
    if named := [name for name in networks if name and f"_{name}_" in stem]:
        return [max(named, key=len)]
    number = re.search(r"_n(\d+)_", stem)
    return [name for name, sizes in networks.items() if sizes["view_num"] == int(number[1])] if number else None


def network_of(path: Path, views: int | None = None) -> str:
    """Return the network of a case with this number of views; the first, if all candidates are equivalent."""
    networks, named = networks_of(path.parent), named_networks(path)
    fitting = [name for name, sizes in networks.items() if views in (None, sizes["view_num"])]
    found = [name for name in fitting if named is None or name in named]
    assert found and (views is None or len(found) == 1), f"{path}: of which network of {views} views? {found}"
    return found[0]


def case_folders() -> list[Path]:
    return [path.parent for path in sorted(golden_root(BUNDLED).rglob("config.json")) if networks_of(path.parent)]


def cases(*patterns: str) -> list[Any]:
    return parameters(files_of(case_folders(), *patterns))


def state_of(folder: Path, name: str) -> Case:
    """Return the official weights of a network."""
    sizes = networks_of(folder)

    def shared(path: Path, other: str) -> bool:
        differ = {key for key in sizes[name] if sizes[name][key] != sizes[other].get(key)}
        return not differ & {"view_num", "image_size"} if path.stem.startswith("buffers") else differ <= {"view_num"}

    def rank(path: Path) -> int:
        named = named_networks(path)
        if named is None:
            return 0
        if name in named:
            return 2
        return 1 if "override" not in path.stem and all(shared(path, other) for other in named) else -1

    state: Case = {}
    for pattern in ("weights*.safetensors", "buffers*.safetensors"):
        for path in sorted(folder.glob(pattern), key=lambda path: (rank(path), path)):
            state |= load_file(path) if rank(path) >= 0 else {}
    return state


@dataclass(frozen=True)
class Model:
    network: Any
    rig: Any
    levels: Tensor

    def prior(self, **options: Any) -> Any:
        """Return the prior of a network, without autoencoder and CLIP."""
        prior = SyncDreamer.__new__(SyncDreamer)
        prior.network, prior.rig, prior.levels, prior.config = (
            self.network,
            self.rig,
            self.levels,
            SyncDreamer.Config("", **options),
        )
        prior.resolution = self.rig.image_size
        return prior


def model_of(path: Path, views: int | None = None) -> Model:
    """Return the model of a case; see `network_of`."""
    return named_model(path.parent, network_of(path, views))


@functools.cache
def named_model(folder: Path, name: str) -> Model:
    sizes = networks_of(folder)[name]
    volumes = {name: str(sizes["spatial_volume"][name]) for name in ("spatial_volume_size", "frustum_volume_depth")}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "weights.safetensors"
        save_file(state_of(folder, name), path, {**NUMBERS, **volumes, "num_heads": str(sizes["unet"]["num_heads"])})
        weights = Weights(path)
        network = checkpoint.network_part(weights).load(torch.float32, CPU)
        rig = Rig.read(weights, CPU)
        levels = sigma_from_alpha_bar(weights["alphas_cumprod"].double())
    unet, volume = network.model["diffusion_model"].size, network.spatial_volume.size
    assert list(unet.channels) == [m * sizes["unet"]["model_channels"] for m in sizes["unet"]["channel_mult"]]
    assert unet.layers == sizes["unet"]["num_res_blocks"] and unet.context_width == sizes["unet"]["context_dim"]
    assert unet.attends == tuple(2**i in sizes["unet"]["attention_resolutions"] for i in range(len(unet.channels)))
    assert list(volume.channels) == sizes["volume_dims"] and volume.time_width == sizes["time_embed_dim"]
    assert (volume.views, rig.image_size) == (sizes["view_num"], sizes["image_size"])
    return Model(network, rig, levels)


def condition_of(case: Case, sample: int) -> Any:
    elevation_deg = math.degrees(case["elevation"][sample])
    return denoising.Condition(case["clip_embed"][sample], case["x_input"][sample], elevation_deg)


def pyramid(case: Case, prefix: str) -> list[Tensor]:
    """Return the tensors `prefix`_<width>, widest first."""
    widths = sorted((int(m[1]) for key in case if (m := re.fullmatch(rf"{prefix}_(\d+)", key))), reverse=True)
    return [case[f"{prefix}_{width}"] for width in widths]


def test_there_is_a_case() -> None:
    assert cases("[a-f]_*.safetensors", "h_*.safetensors"), f"no case of SyncDreamer in {golden_root(BUNDLED)}"


def pretend(folder: Path, sizes: dict[str, Any], *files: str) -> None:
    """Write a case folder whose files hold their own names as a weight."""
    (folder / "config.json").write_text(json.dumps(sizes))
    for name in files:
        save_file({"all": torch.ones(1), name: torch.ones(1)}, folder / f"{name}.safetensors")


def test_files_belong_to_the_network_in_their_names(tmp_path: Path) -> None:
    four = {"view_num": 4, "image_size": 64, "width": 8}
    sizes = {"n4": four, "n4_wide": {**four, "width": 16}, "n6": {**four, "view_num": 6}, "about": "x"}
    weights = ("weights_unet", "weights_n4", "weights_n4_wide", "weights_n6_override", "buffers_n4", "buffers_n6")
    pretend(tmp_path, sizes, *weights)
    named = {"e_denoise_n4_seed3": "n4", "e_denoise_n4_wide_seed3": "n4_wide", "e_denoise_n4_wide": "n4_wide"}
    for stem, name in named.items():
        assert network_of(tmp_path / f"{stem}.safetensors", 4) == name
    assert network_of(tmp_path / "f_loop_cfg2.safetensors", 6) == "n6"
    assert network_of(tmp_path / "d_unet.safetensors") == "n4"
    for views in (4, 5):  # of two networks, of none
        with pytest.raises(AssertionError, match=f"of which network of {views} views"):
            network_of(tmp_path / "f_loop_cfg2.safetensors", views)
    states = {name: set(state_of(tmp_path, name)) - {"all"} for name in ("n4", "n4_wide", "n6")}
    assert states == {
        "n4": {"weights_unet", "weights_n4", "buffers_n4"},
        "n4_wide": {"weights_unet", "weights_n4_wide", "buffers_n4"},
        "n6": {"weights_unet", "weights_n4", "weights_n6_override", "buffers_n6"},
    }


def test_a_config_of_one_network_needs_no_name(tmp_path: Path) -> None:
    pretend(tmp_path, {"view_num": 8, "image_size": 64}, "weights", "buffers_n8")
    assert network_of(tmp_path / "e_denoise_n8_seed3.safetensors", 8) == ""
    assert set(state_of(tmp_path, "")) == {"all", "weights", "buffers_n8"}


@pytest.mark.parametrize("path", cases("buffers*.safetensors"))
def test_generated_cameras(path: Path) -> None:
    """The file's cameras follow from their azimuths; all 16 are those of the views source."""
    case = load_file(path)
    views = len(case["poses"])
    size = networks_of(path.parent)[network_of(path, views)]["image_size"]
    angles = torch.rad2deg(case["azimuth"]), torch.full((views,), 30.0)
    generated = [orbit_cameras(*angles, 1.5, FOV_DEG, size, size)]
    if views == 16:
        generated.append(official_cameras(views, size))
    for rig in map(Rig.of, generated):
        close(rig.poses, case["poses"], GEOMETRY, "poses")
        close(rig.intrinsics, case["Ks"], 1e-6 * case["Ks"].max().item(), "Ks")
        turn = (rig.azimuth - case["azimuth"] + math.pi) % (2 * math.pi) - math.pi
        close(turn, torch.zeros(views), GEOMETRY, "azimuth")
    assert (sigma_from_alpha_bar(case["alphas_cumprod"].double()).diff() > 0).all()


@pytest.mark.parametrize("path", cases("a_*.safetensors"))
@torch.no_grad()
def test_target_encoder(path: Path) -> None:
    case = load_file(path)
    encoder = model_of(path).network.spatial_volume.target_encoder
    close(encoder(case["x"], case["t"], case["v"]), case["out"], GEOMETRY, "out")


@pytest.mark.parametrize("path", cases("b_spatial_volume_n*.safetensors"))
@torch.no_grad()
def test_spatial_volume(path: Path) -> None:
    case = load_file(path)
    model = model_of(path, case["x_noisy"].shape[1])
    rig, network = Rig(case["poses"], case["Ks"], model.rig.azimuth), model.network.spatial_volume
    count, size = network.size.vertices, case["x_noisy"].shape[-1]
    points = vertices(count, CPU)
    close(points.T.unflatten(1, (count,) * 3), case["verts"][0], GEOMETRY, "verts")
    for sample, noisy in enumerate(case["x_noisy"]):
        elevation_deg = math.degrees(case["elevation"][sample])
        close(rig.view_embedding(elevation_deg, rig.azimuth[0]), case["v_embed"][sample], GEOMETRY, "v_embed")
        time, view = case["t_embed"][sample : sample + 1], case["v_embed"][sample]
        close(model.network.embed_time(int(case["timesteps"][sample])), time, GEOMETRY, "t_embed")
        where = rig.warp_coordinates(points, size).unflatten(1, (count,) * 3)
        close(where, case["warp_coords"][sample], GEOMETRY, "warp_coords")
        encoded = network.target_encoder(noisy, time.expand(len(noisy), -1), view)
        if "encoded" in case:
            close(encoded, case["encoded"][sample], FEATURES, "encoded")
        if "unprojected" in case:
            close(network.unproject(encoded, rig), case["unprojected"][sample], FEATURES, "unprojected")
        close(network.spatial(noisy, time, view, rig)[0], case["spatial_volume"][sample], FEATURES, "spatial_volume")


@pytest.mark.parametrize("path", cases("c_frustum_n*.safetensors"))
@torch.no_grad()
def test_frustum_volume(path: Path) -> None:
    case = load_file(path)
    model = model_of(path, case["v_embed"].shape[1])
    network, wanted = model.network.spatial_volume, pyramid(case, "feats")
    size = wanted[0].shape[-1]
    for sample in range(len(case["t_embed"])):
        one, target = slice(sample, sample + 1), int(case["target_indices"][sample])
        rig, volume = model.rig[target : target + 1], case["spatial_volume"][one]
        points = rig.frustum_points(network.size.planes, size)
        close(points.permute(0, 4, 1, 2, 3), case["volume_xyz"][one], GEOMETRY, "volume_xyz")
        if "volume_depth" in case:
            depth = (rig.poses[:, 2, :3] @ points[0].flatten(0, 2).T + rig.poses[:, 2, 3:]).unflatten(
                1, points.shape[1:4]
            )
            close(depth[None], case["volume_depth"][one], GEOMETRY, "volume_depth")
        if "sampled" in case:
            close(network.resample(volume, size, rig), case["sampled"][one], FEATURES, "sampled")
        found = network.frustum(volume, size, case["t_embed"][one], case["v_embed"][one, target], rig)
        for features, expected in zip(found, wanted, strict=True):
            close(features, expected[one], FEATURES, f"feats_{features.shape[-1]}")


@pytest.mark.parametrize("path", cases("d_unet*.safetensors"))
@torch.no_grad()
def test_unet(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_file(path)
    unet, sources = model_of(path).network.model["diffusion_model"], pyramid(case, "source")
    zeros = [torch.zeros_like(source) for source in sources]
    arguments = case["x"], case["timesteps"], case["context"]
    close(unet(*arguments, sources), case["out"], FEATURES, "out")
    close(unet(*arguments, zeros), case["out_zero_volume"], FEATURES, "out_zero_volume")
    if "dt_x" in case:  # one block, the first at half resolution
        level = [source.shape[-1] for source in sources].index(case["dt_x"].shape[-1])
        block = unet.output_conditions[[n for n in unet.condition_levels if n is not None].index(level)]
        close(block(case["dt_x"], sources[level]), case["dt_out"], FEATURES, "dt_out")
        close(block(case["dt_x"], zeros[level]), case["dt_out_zero_volume"], FEATURES, "dt_out_zero_volume")
        close(block.depth_attn(case["da_x"], sources[level]), case["da_out"], FEATURES, "da_out")
    if "out_no_depth_attention" in case:
        monkeypatch.setattr(DepthTransformer, "forward", lambda self, x, volume: x)
        close(unet(*arguments, sources), case["out_no_depth_attention"], FEATURES, "out_no_depth_attention")


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("path", cases("e_denoise*.safetensors"))
@torch.no_grad()
def test_denoising(path: Path, chunk: int) -> None:
    case = load_file(path)
    views = case["x_noisy"].shape[1]
    model = model_of(path, views)
    network, rig, size = model.network, model.rig, case["x_noisy"].shape[-1]
    for sample, noisy in enumerate(case["x_noisy"]):
        condition, timestep = condition_of(case, sample), int(case["timesteps"][sample])
        time, view = network.embed_time(timestep), rig.view_embedding(condition.elevation_deg, rig.azimuth[0])
        close(time, case["t_embed"][sample : sample + 1], GEOMETRY, "t_embed")
        close(view, case["v_embed"][sample], GEOMETRY, "v_embed")
        context = network.embed_context(condition.embedding, view)
        close(context, case["context"].unflatten(0, (-1, views))[sample], FEATURES, "context")
        volume = network.spatial(noisy, time, view, rig)
        close(volume, case["spatial_volume"][sample : sample + 1], FEATURES, "spatial_volume")
        for key, expected in case.items():
            if match := re.fullmatch(r"frustum_feats_(\d+)_view(\d+)", key):
                one = slice(int(match[2]), int(match[2]) + 1)
                found = {f.shape[-1]: f[0] for f in network.frustum(volume, size, time, view[one], rig[one])}
                close(found[int(match[1])], expected[sample], FEATURES, key)
        branches = [denoising.EVERYTHING, denoising.NOTHING]
        cond, uncond = denoising.estimate_epsilon(network, rig, noisy, timestep, condition, branches, chunk)
        close(cond, case["eps_cond"][sample], FEATURES, "eps_cond")
        close(uncond, case["eps_uncond"][sample], FEATURES, "eps_uncond")
        close(uncond + 2 * (cond - uncond), case["eps_cfg2"][sample], GUIDED, "eps_cfg2")


def inputs_of(path: Path) -> tuple[Path, Case]:
    """Return the file with the inputs of a decomposed-guidance case: the one with equal conditional noise."""
    wanted = load_file(path)["eps_cond"]
    for other in (path, *sorted(path.parent.glob("e_denoise*.safetensors"))):
        case = load_file(other)
        same = case["eps_cond"].shape == wanted.shape and torch.allclose(case["eps_cond"], wanted, atol=FEATURES)
        if same and "x_noisy" in case:
            return other, case
    raise AssertionError(f"{path}: no e_denoise*.safetensors beside it has its eps_cond")


def test_inputs_are_found_by_what_was_made_of_them(tmp_path: Path) -> None:
    wanted = {"eps_cond": torch.rand(1, 4, 2)}
    others = {"seed1": torch.rand(1, 4, 2), "n4_seed3": wanted["eps_cond"], "n8": torch.rand(1, 8, 2)}
    for name, epsilon in others.items():
        save_file({"eps_cond": epsilon, "x_noisy": torch.rand(3)}, tmp_path / f"e_denoise_{name}.safetensors")
    save_file(wanted, tmp_path / "f_decomposed_guidance_seed3.safetensors")
    assert inputs_of(tmp_path / "f_decomposed_guidance_seed3.safetensors")[0].stem == "e_denoise_n4_seed3"
    save_file({"eps_cond": torch.rand(1, 4, 2) + 9}, tmp_path / "f_decomposed_guidance.safetensors")
    with pytest.raises(AssertionError, match=r"no e_denoise.* beside it has its eps_cond"):
        inputs_of(tmp_path / "f_decomposed_guidance.safetensors")


@pytest.mark.parametrize("path", cases("f_decomposed_guidance*.safetensors"))
@torch.no_grad()
def test_decomposed_guidance(path: Path) -> None:
    case = load_file(path)
    views = case["eps_cond"].shape[1]
    source, inputs = inputs_of(path)
    model = model_of(source, views)
    branches = {
        "eps_cond": denoising.EVERYTHING,
        "eps_multiview_only": denoising.VIEWS_ONLY,
        "eps_reference_only_x4": denoising.reference_only(4.0),  # as released
    }
    terms = list(branches)  # of the guided noise, whether or not the case has them
    for key in case:
        if match := re.fullmatch(r"eps_reference_only_x([\d.]+)", key):
            branches[key] = denoising.reference_only(float(match[1]))
    for sample, noisy in enumerate(inputs["x_noisy"]):
        arguments = (
            noisy,
            int(inputs["timesteps"][sample]),
            condition_of(inputs, sample),
            list(branches.values()),
            views,
        )
        found = dict(zip(branches, denoising.estimate_epsilon(model.network, model.rig, *arguments), strict=True))
        for key in found.keys() & case.keys():
            close(found[key], case[key][sample], FEATURES, key)
        for key, expected in case.items():
            if match := re.fullmatch(r"eps_dg_s1_([\d.]+)_s2_([\d.]+)", key):
                scales = float(match[1]), float(match[2])
                close(decomposed(*(found[term] for term in terms), scales), expected[sample], GUIDED, key)


def levels_of(folder: Path) -> Tensor:
    """Return the [1000] noise levels of the schedule, from any network's file."""
    return sigma_from_alpha_bar(state_of(folder, next(iter(networks_of(folder))))["alphas_cumprod"].double())


@pytest.mark.parametrize("path", cases("f_ddim*.safetensors"))
def test_ddim_tables(path: Path) -> None:
    case, levels = load_file(path), levels_of(path.parent)
    counts = [int(match[1]) for key in case if (match := re.fullmatch(r"steps(\d+)_timesteps", key))]
    assert counts
    for steps in counts:
        sigmas = ddim_sigmas(levels, steps).flip(0)  # the tables ascend, past `steps` where these do not divide all
        close(sigmas[1:], levels[case[f"steps{steps}_timesteps"][:steps]], 0, "timesteps")
        alphas = 1 / (1 + sigmas**2)
        below, at = sigmas[:-1], sigmas[1:]
        wanted = {
            "alphas": alphas[1:],
            "alphas_prev": alphas[:-1],
            "sigmas": alphas[:-1].sqrt() * below * (1 - (below / at) ** 2).sqrt(),
            "sqrt_one_minus_alphas": (1 - alphas[1:]).sqrt(),
        }
        for name, values in wanted.items():
            close(values.float(), case[f"steps{steps}_ddim_{name}"][:steps].float(), GEOMETRY, f"{steps} {name}")


@pytest.mark.parametrize("path", cases("f_ddim*.safetensors"))
def test_ddim_steps(path: Path) -> None:
    case, levels = load_file(path), levels_of(path.parent)
    indices = [int(match[1]) for key in case if (match := re.fullmatch(r"step_index(\d+)_x_prev", key))]
    counts = [int(match[1]) for key in case if (match := re.fullmatch(r"steps(\d+)_timesteps", key))]
    fitting = [count for count in counts if count > max(indices)]
    steps = USUAL_STEPS if USUAL_STEPS in fitting else min(fitting)
    for index in indices:
        sigmas = ddim_sigmas(levels, steps)[steps - 1 - index :]
        after: list[Tensor] = []
        noises = iter([case["step_x_t"], *[case["step_noise"]] * index])
        denoise = lambda z, sigma: z - sigma * case["step_eps"]  # noqa: E731
        ancestral(denoise, noises, sigmas, lambda step, z: after.append(z))  # noqa: B023
        found = after[0] / math.sqrt(1 + sigmas[1] ** 2)
        close(found, case[f"step_index{index}_x_prev"], GEOMETRY, f"index {index}")


@dataclass(frozen=True)
class Sampled:
    """final: [N, 4, h, w]; after: states after each step; epsilons: guided noise of each step."""

    final: Tensor
    after: list[Tensor]
    epsilons: list[Tensor]


def sampled(case: Case, sample: int, prior: Any, method: str, scales: tuple[float, float]) -> Sampled:
    """Return one sample by the prior, as drawn by its views source."""
    condition, sigmas = condition_of(case, sample), prior.sigmas(len(case["noise"]) + 1)
    after, epsilons = list[Tensor](), list[Tensor]()

    def denoise(z: Tensor, sigma: float) -> Tensor:
        if method == "cfg":
            x0 = prior.denoise(NoisyViews(z, sigma, condition, None, torch.full((len(z),), scales[0])))
        else:
            x0 = decomposed(*prior.denoise_separately(NoisyViews(z, sigma, condition, None)), scales)
        epsilons.append((z - x0) / sigma)
        return x0

    def keep(step: int, z: Tensor) -> None:
        after.append(z / math.sqrt(1 + sigmas[step + 1] ** 2))

    noises = iter([case["x_T"][sample], *case["noise"][:, sample]])
    return Sampled(ancestral(denoise, noises, sigmas, keep), after, epsilons)


@pytest.mark.parametrize("path", cases("f_loop_*.safetensors"))
@torch.no_grad()
def test_sampling(path: Path) -> None:
    """Full sampling; file names end with the method and the digits of its scales: cfg2, cfg15 (1.5), dg21."""
    case, match = load_file(path), re.search(r"(cfg|dg)(\d)(\d?)(?=_|$)", path.stem)
    assert match, path
    prior = model_of(path, case["x_T"].shape[1]).prior()
    first, second = match[2], match[3] or "0"
    scales = (float(f"{first}.{second}"), 0.0) if match[1] == "cfg" else (float(first), float(second))
    for sample in range(len(case["x_T"])):
        found = sampled(case, sample, prior, match[1], scales)
        for step, x in enumerate(found.after):
            close(x, case["x_after_step"][step, sample], GUIDED, f"x after step {step}")
        if "eps" in case:
            close(torch.stack(found.epsilons), case["eps"][:, sample], GUIDED, "eps")
        close(found.final, case["out"][sample], GUIDED, "out")


@pytest.mark.parametrize("path", cases("h_prepare_inputs*.safetensors"))
def test_preparation(path: Path) -> None:
    case = load_file(path)
    crops = [match[1] for key in case if (match := re.fullmatch(r"image_crop(-?\d+)", key))]
    assert crops
    for crop in crops:
        expected = case[f"image_crop{crop}"]
        rgba = case["rgba"].float() / 255
        image, mask = framed(rgba, expected.shape[0], max(int(crop), 0))
        close(2 * image - 1, expected, 1e-6, f"crop {crop}")
        assert mask.shape == (*image.shape[:2], 1) and 0 < mask.mean() < 1


@functools.cache
def manifest() -> dict[str, list[int]]:
    """Return key -> shape of the full-size file."""
    found = files_of(case_folders(), "manifest_full.json")
    return json.loads((found or [unpacked(BUNDLED) / "manifest_full.json"])[0].read_text())


def test_full_size_keys() -> None:
    """Every weight of the three networks has a key of equal shape in the official file, and vice versa."""
    shapes = manifest()
    assert len(shapes) == 1618
    parts = checkpoint.open_parts(Listed(shapes))
    used = [{key for key, _ in part.sources.values()} for part in (parts.network, parts.vae, parts.clip)]
    assert [len(keys) for keys in used] == [856 + 196 + 4 + 2, 248, 296]
    unused = {key for key in shapes if layout.UNUSED.match(key)}
    assert set().union(*used) | unused | set(layout.BUFFERS) == set(shapes)
    assert len(unused) == 12 and sum(map(len, used)) + len(unused) + len(layout.BUFFERS) == 1618  # each is one of these
    modules = parts.network.module, parts.vae.module, parts.clip.module
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    assert all(tensor.is_meta for tensor in tensors), "nothing large is made before it is read"
    unet = sum(tensor.numel() for tensor in parts.network.module.model.state_dict().values())
    assert round(unet / 1e6, 1) == 916.9


@pytest.mark.parametrize("seed", range(2))
def test_other_files_are_refused(seed: int) -> None:
    """With a missing or misshapen key, it is named."""
    shapes = manifest()
    needed = [key for key in shapes if not layout.UNUSED.match(key)]
    key = needed[int(torch.randint(len(needed), (), generator=torch.Generator().manual_seed(seed)))]
    for changed, message in (
        ({k: s for k, s in shapes.items() if k != key}, f"'{re.escape(key)}' is missing"),
        ({**shapes, key: [*shapes[key], 7]}, f"'{re.escape(key)}' has shape {re.escape(str([*shapes[key], 7]))}"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoint.open_parts(Listed(changed))


def test_files_with_more_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"unexpected weight 'model_ema\.decay'"):
        checkpoint.open_parts(Listed({**manifest(), "model_ema.decay": []}))
