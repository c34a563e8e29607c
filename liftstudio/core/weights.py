"""Weight files of networks: found, opened without being read, and copied into a module tensor by tensor."""

import contextlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from liftstudio.core.assets import SCHEME, input_path
from liftstudio.core.cache import file_digest
from liftstudio.core.errors import InputError
from liftstudio.core.files import PICKLE, SAFETENSORS, ZIP, file_kind

Source = str | tuple[str, Callable[[Tensor], Tensor]]  # a key of a file, optionally with a function that converts it

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
UNET_FOLDER = "unet"  # subfolder of a diffusers pipeline that holds the denoising network
SUMS = "SHA256SUMS"  # file in the folder of a packaged prior with the digests of its files
_FORMATS = {SAFETENSORS: SUFFIXES[:1], ZIP: SUFFIXES[1:], PICKLE: SUFFIXES[1:]}  # -> suffixes it is read under
_MAPPED = 2**29  # bytes that are read of a file before it is mapped anew: pages that were read count as memory
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w./-]+)?")


class Weights:
    """An opened weight file: keys and shapes are known, a tensor is read (memory-mapped) only when accessed.

    path:     the file.
    shapes:   key -> shape of every tensor in the file.
    metadata: the metadata of a .safetensors file, as text; otherwise empty.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            InputError: not a readable weight file.
        """
        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors: dict[str, Tensor] = {}
        self._read = 0  # bytes since the file was mapped
        self._is_mapped = True
        try:
            self.shapes = self._open_safetensors() if path.suffix == ".safetensors" else self._open_pickle()
        except InputError:
            raise
        except Exception as error:  # the two readers raise a dozen unrelated types
            raise unreadable(path, error) from error

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def __getitem__(self, key: str) -> Tensor:
        """Return the tensor `key` on the CPU, in the file's dtype; it is memory-mapped: copy it before changing it."""
        if self._read > _MAPPED and self._is_mapped:
            self._map_anew()
        tensor = self._tensors[key] if self._tensors else self._file.get_tensor(key)
        self._read += tensor.nbytes
        return tensor

    def _map_anew(self) -> None:
        """Give back the memory of the pages that were read."""
        self._read = 0
        if self._tensors:
            self._open_pickle()
        else:
            self._open_safetensors()

    def _open_safetensors(self) -> dict[str, tuple[int, ...]]:
        self._file = safe_open(self.path, framework="pt")
        self.metadata = self._file.metadata() or {}
        return {key: tuple(self._file.get_slice(key).get_shape()) for key in self._file.keys()}  # noqa: SIM118

    def _open_pickle(self) -> dict[str, tuple[int, ...]]:
        try:
            kind = file_kind(self.path)
            if kind not in (ZIP, PICKLE, ""):
                raise ValueError(kind)
            self._is_mapped = kind == ZIP  # files of torch before 1.6 are no archives and cannot be mapped
            state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=self._is_mapped)
        except pickle.UnpicklingError as error:
            objects = torch.serialization.get_unsafe_globals_in_checkpoint(self.path)  # executes nothing
            raise (_not_only_tensors(self.path, objects) if objects else error) from error
        state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
        self._tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if not self._tensors:
            raise InputError(f"{self.path}: expected a dict of tensors")
        return {key: tuple(value.shape) for key, value in self._tensors.items()}


def unreadable(path: Path, error: Exception) -> InputError:
    """Return the error for a weight file whose reader raised `error`: says what the file is, if that is known."""
    kind, reason = file_kind(path), " ".join(str(error).split()).partition(". ")[0]
    if kind in _FORMATS and path.suffix not in _FORMATS[kind]:
        kind += f"; rename it to {path.stem}{_FORMATS[kind][0]}"
    elif kind in _FORMATS:  # what it should be, but damaged
        kind = ""
    detail = kind or f"{type(error).__name__}: {reason}; if its download was interrupted, repeat it"
    return InputError(f"{path}: not a readable weight file ({detail})")


def _not_only_tensors(path: Path, objects: list[str]) -> InputError:
    """Return the error for a checkpoint that also contains `objects`, which says how to convert it."""
    named = ", ".join(sorted(objects)[:3]) + (", ..." if len(objects) > 3 else "")
    load = f"torch.load('{path}', map_location='cpu', weights_only=False)"
    return InputError(
        f"{path}: contains Python objects other than tensors ({named}); they are not loaded, since that can run "
        "arbitrary code; if you trust the source of the file, save its state_dict alone: "
        f"python -c \"import torch; torch.save({load}['state_dict'], 'weights.ckpt')\""
    )


def open_weights(text: str, published: str = "") -> Weights:
    """Return the weights that an option refers to, opened.

    Args:
        text: a weight file, a folder with one weight file, `asset://...`, or on the Hugging Face hub `owner/name` (a
            repository with one weight file) or `owner/name/file`. Of a diffusers pipeline, the file in `unet` is used.
        published: where the official file is published and under which licence; added to the error if no file is found.

    Raises:
        InputError: there is no such file, it is not a readable weight file, or a packaged file is damaged.
    """
    path = find_file(text, published)
    if text.startswith(SCHEME):
        _check_digest(path, path.parent)
    return Weights(path)


def find_file(text: str, published: str = "") -> Path:
    """Return the file that `text` refers to, as in `open_weights`; downloaded if necessary.

    A file that is named directly may be of any format.

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
    """Return the folder of the diffusers pipeline that the weight file `path` belongs to; None if there is none."""
    folder = path.parent.absolute()
    return folder.parent if folder.name == UNET_FOLDER else None


class _WithoutInitialization(TorchFunctionMode):
    """Leaves out the functions of `torch.nn.init`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def unloaded() -> Iterator[None]:
    """Build modules for `load_module`: on the meta device, and without initial values, which take half of the time."""
    with torch.device("meta"), _WithoutInitialization():
        yield


def load_module(
    module: nn.Module, weights: Weights, keys: Mapping[str, Source], dtype: torch.dtype, device: torch.device
) -> None:
    """Load weights into a module that was built in `unloaded`, freeze it and put it into eval mode.

    Tensors are read, cast and moved one at a time, so the memory needed is that of the module and one tensor.

    Args:
        module: the module, on the meta device.
        weights: the opened file.
        keys: the module's key -> the file's key, or (the file's key, a function that converts the tensor); keys that
            are not listed are the same in both.
        dtype: dtype of floating-point tensors.
        device: device of the loaded module.

    Raises:
        InputError: the file lacks a key, or a shape differs; names the first one in the module's order.
    """
    check_module(module, weights, keys)
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        key, change = _source(name, keys)
        cast = dtype if tensor.is_floating_point() else tensor.dtype
        state[name] = change(weights[key]).to(device, cast, copy=True).contiguous()
    module.load_state_dict(state, strict=True, assign=True)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):  # those that are not in files
            setattr(part, name, buffer.to(device))
    module.requires_grad_(False).eval()


def check_module(module: nn.Module, weights: Weights, keys: Mapping[str, Source]) -> None:
    """Raise the errors of `load_module`, without reading a tensor."""
    for name, tensor in module.state_dict().items():
        key, change = _source(name, keys)
        if key not in weights:
            raise InputError(f"{weights.path}: the weight '{key}' is missing")
        try:
            fits = change(torch.empty(weights.shapes[key], device="meta")).shape == tensor.shape
        except (RuntimeError, IndexError):  # `change` does not apply to this shape
            fits = False
        if not fits:
            shapes = f"has shape {list(weights.shapes[key])}; '{name}' of the network has {list(tensor.shape)}"
            raise InputError(f"{weights.path}: the weight '{key}' {shapes}")


def check_packaged_folder(folder: Path) -> None:
    """Raise an InputError unless all files listed in the SHA256SUMS of a packaged folder are there and undamaged."""
    known = _digests(folder / SUMS)
    if not known:
        raise InputError(f"{folder}: no digests in {folder / SUMS}; download the project's files again")
    for name in known:
        _check_digest(folder / name, folder)


def _check_digest(path: Path, folder: Path) -> None:
    """Raise an InputError unless the SHA-256 of `path` is the one in the SHA256SUMS of `folder`."""
    sums = folder / SUMS
    known = _digests(sums).get(path.relative_to(folder).as_posix())
    if known is None:
        raise InputError(f"{path}: its digest is missing in {sums}; download the project's files again")
    if not path.is_file() or file_digest(path) != known:
        raise InputError(f"{path}: damaged, its SHA-256 differs from {sums}; download the project's files again")


def _digests(sums: Path) -> dict[str, str]:
    """Return file name -> digest, from a file in the format of sha256sum; empty if there is no such file."""
    lines = sums.read_text().splitlines() if sums.is_file() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _source(name: str, keys: Mapping[str, Source]) -> tuple[str, Callable[[Tensor], Tensor]]:
    source = keys.get(name, name)
    return (source, lambda tensor: tensor) if isinstance(source, str) else source


def _only_one(names: list[str], place: str) -> str:
    files = [name for name in names if name.endswith(SUFFIXES)]
    files = [name for name in files if name.startswith(f"{UNET_FOLDER}/")] or files
    files = [name for name in files if not name.endswith(".bin")] or files  # the same weights in an older format
    if not files:
        raise InputError(f"{place}: no weight file there (*{', *'.join(SUFFIXES)})")
    if len(files) > 1:
        raise InputError(f"{place}: several weight files there; name one, for example {place}/{files[0]}")
    return files[0]


def _from_hub(text: str) -> Path:
    """Return the local copy of a file on the hub, downloaded if necessary."""
    if not is_hub_name(text):
        raise InputError(f"{text}: no such file or folder")
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise InputError(
            f"{text}: no such file or folder; to download it from the Hugging Face hub, install huggingface_hub"
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
        message = f"{text}: no such file, and it cannot be downloaded from the Hugging Face hub ({reason[0]})"
        raise InputError(message) from error


def is_hub_name(text: str) -> bool:
    """Return whether a text that names no local file can be a hub name: not if its first folder exists locally."""
    is_file = text.count("/") == 1 and text.endswith(SUFFIXES)
    return not (text.startswith(SCHEME) or is_file or Path(text.partition("/")[0]).exists()) and bool(
        _HUB_NAME.fullmatch(text)
    )
