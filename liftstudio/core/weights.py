"""Weight files of priors: found, opened without reading them, and copied tensor by tensor into a module."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.errors import InputError

Source = str | tuple[str, Callable[[Tensor], Tensor]]  # a key of a file; with a function: the layout changes by it

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
UNET_FOLDER = "unet"  # in the folder of a diffusers pipeline: the denoising network
SUMS = "SHA256SUMS"  # in the folder of a packaged prior: the digest of its weight file
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w./-]+)?")


class Weights:
    """An opened weight file: what it holds is known, and a tensor is read (memory-mapped) only when asked for.

    path:     the file.
    shapes:   key -> shape of every tensor in it.
    metadata: the file's own notes as text (of .safetensors; otherwise empty).
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            InputError: not a readable weight file.
        """
        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        try:
            self.shapes = self._open_safetensors() if path.suffix == ".safetensors" else self._open_pickle()
        except InputError:
            raise
        except Exception as error:  # the two readers raise a dozen unrelated types
            raise InputError(f"{path}: not a readable weight file ({type(error).__name__})") from error

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def __getitem__(self, key: str) -> Tensor:
        """The tensor of that key, on the CPU, in the file's dtype; its memory is the file's: copy before changing."""
        return self._tensors[key] if self._tensors else self._file.get_tensor(key)

    def _open_safetensors(self) -> dict[str, tuple[int, ...]]:
        self._file = safe_open(self.path, framework="pt")
        self.metadata = self._file.metadata() or {}
        return {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118

    def _open_pickle(self) -> dict[str, tuple[int, ...]]:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            objects = torch.serialization.get_unsafe_globals_in_checkpoint(self.path)  # executes nothing
            raise (_not_only_tensors(self.path, objects) if objects else error) from error
        state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
        self._tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if not self._tensors:
            raise InputError(f"{self.path}: expected a table of tensors")
        return {key: tuple(value.shape) for key, value in self._tensors.items()}


def _not_only_tensors(path: Path, objects: list[str]) -> InputError:
    """What to do about a checkpoint that holds these objects, too."""
    named = ", ".join(sorted(objects)[:3]) + (", ..." if len(objects) > 3 else "")
    load = f"torch.load('{path}', map_location='cpu', weights_only=False)"
    return InputError(
        f"{path}: it holds other Python objects than tensors ({named}), which are not loaded, since that can run any "
        "code; if you trust where it is from, save its state_dict alone: "
        f"python -c \"import torch; torch.save({load}['state_dict'], 'weights.ckpt')\""
    )


def open_weights(text: str, published: str = "") -> Weights:
    """The weights that an option names.

    Args:
        text: a weight file, a folder with one weight file, `asset://...`, or on the Hugging Face hub `owner/name` (of a
            repository with one weight file) or `owner/name/file`. Of a diffusers pipeline it is the `unet`'s.
        published: where the official file is found and under which licence: said when there is none.
    Raises:
        InputError: there is no such file, it is not a readable weight file, or a packaged one is not what was packaged.
    """
    path = find_file(text, published)
    if text.startswith(SCHEME):
        _check_digest(path, path.parent)
    return Weights(path)


def find_file(text: str, published: str = "") -> Path:
    """The file that `text` names, as in `open_weights`, of any kind if it is named itself; downloaded if need be.

    Raises:
        InputError: there is no such file; see `open_weights`.
    """
    path = input_path(text)
    try:
        if path.is_dir():
            files = (*path.iterdir(), *(path / UNET_FOLDER).glob("*"))
            return path / _only_one(sorted(file.relative_to(path).as_posix() for file in files), text)
        return path if path.is_file() else _from_hub(text)
    except InputError as error:
        raise InputError(f"{error}; {published}" if published else str(error)) from error.__cause__


def pipeline_folder(path: Path) -> Path | None:
    """The folder of the diffusers pipeline whose denoising network a weight file is; None if it is of none."""
    folder = path.parent.absolute()
    return folder.parent if folder.name == UNET_FOLDER else None


def load_module(
    module: nn.Module, weights: Weights, keys: Mapping[str, Source], dtype: torch.dtype, device: torch.device
) -> None:
    """Give a module that was built on the meta device its weights, frozen, and put it into eval mode.

    One tensor at a time is read, cast and moved, so that the memory needed is that of the module and one tensor.

    Args:
        keys: the module's key -> the file's, or (the file's, a function of the tensor); what is not in it has the
            same key in both.
        dtype: of floating-point tensors.
    Raises:
        InputError: the file lacks a key, or a shape differs; the first one is named, in the module's order.
    """
    check_module(module, weights, keys)
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        key, change = _source(name, keys)
        cast = dtype if tensor.is_floating_point() else tensor.dtype
        state[name] = change(weights[key]).to(device, cast, copy=True).contiguous()
    module.load_state_dict(state, strict=True, assign=True)
    module.to(device).requires_grad_(False).eval()  # the move is for buffers that are in no file


def check_module(module: nn.Module, weights: Weights, keys: Mapping[str, Source]) -> None:
    """Raise as `load_module` would, without reading a tensor."""
    for name, tensor in module.state_dict().items():
        key, change = _source(name, keys)
        if key not in weights:
            raise InputError(f"{weights.path}: the weight '{key}' is missing")
        try:
            fits = change(torch.empty(weights.shapes[key], device="meta")).shape == tensor.shape
        except (RuntimeError, IndexError):  # so foreign a shape that it cannot be changed
            fits = False
        if not fits:
            shapes = f"has shape {list(weights.shapes[key])}; '{name}' of the network has {list(tensor.shape)}"
            raise InputError(f"{weights.path}: the weight '{key}' {shapes}")


def check_packaged_folder(folder: Path) -> None:
    """Raise an InputError unless a packaged folder's files are those that its SHA256SUMS names, undamaged."""
    known = _digests(folder / SUMS)
    if not known:
        raise InputError(f"{folder}: no digests in {folder / SUMS}; fetch the project's files again")
    for name in known:
        _check_digest(folder / name, folder)


def _check_digest(path: Path, folder: Path) -> None:
    """Raise an InputError unless the SHA256SUMS of a folder has the digest of a file in it."""
    sums = folder / SUMS
    known = _digests(sums).get(path.relative_to(folder).as_posix())
    if known is None:
        raise InputError(f"{path}: no digest of it in {sums}; fetch the project's files again")
    if not path.is_file() or file_digest(path) != known:
        raise InputError(f"{path}: damaged, its SHA-256 is not that in {sums}; fetch the project's files again")


def _digests(sums: Path) -> dict[str, str]:
    """File -> digest, as sha256sum writes them; none where there is no such file."""
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _source(name: str, keys: Mapping[str, Source]) -> tuple[str, Callable[[Tensor], Tensor]]:
    source = keys.get(name, name)
    return (source, lambda tensor: tensor) if isinstance(source, str) else source


def _only_one(names: list[str], place: str) -> str:
    files = [name for name in names if name.endswith(SUFFIXES)]
    files = [name for name in files if name.startswith(f"{UNET_FOLDER}/")] or files
    files = [name for name in files if not name.endswith(".bin")] or files  # the same in an older form
    if not files:
        raise InputError(f"{place}: no weight file there (*{', *'.join(SUFFIXES)})")
    if len(files) > 1:
        raise InputError(f"{place}: several weight files there; name one, for example {place}/{files[0]}")
    return files[0]


def _from_hub(text: str) -> Path:
    """The local copy of a file on the hub, downloaded if need be."""
    if not is_hub_name(text):
        raise InputError(f"{text}: no such file or folder")
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise InputError(
            f"{text}: no such file or folder; names on the Hugging Face hub need the package huggingface_hub"
        ) from None
    owner, name, *file = text.split("/", 2)
    repository = f"{owner}/{name}"
    try:
        wanted = file[0] if file else _only_one(sorted(huggingface_hub.list_repo_files(repository)), text)
        return Path(huggingface_hub.hf_hub_download(repository, wanted))
    except InputError:
        raise
    except Exception as error:  # no network, no such repository, a licence not accepted, ...
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{text}: no such file, and not to be had from the Hugging Face hub ({reason[0]})") from error


def is_hub_name(text: str) -> bool:
    """Whether a text that names no local file can be a name on the hub: not where its first folder exists here."""
    is_file = text.count("/") == 1 and text.endswith(SUFFIXES)
    return not (text.startswith(SCHEME) or is_file or Path(text.partition("/")[0]).exists()) and bool(
        _HUB_NAME.fullmatch(text)
    )
