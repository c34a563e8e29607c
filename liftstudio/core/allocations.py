"""Bytes of the tensors that are alive, counted op by op; of fake tensors as if they were real."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Allocations(TorchDispatchMode):
    """Counts the tensors that ops inside the block make, while they are alive; scratch memory of an op is not seen.

    live:   bytes now. peak: the most since the last `restart`, at which the work named `during` was done.
    real:   bytes of tensors with numbers now. real_peak: the most so far.
    during: see `doing`; empty: no work that has a name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.real = self.real_peak = 0
        self.during = self._work = ""
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.device.type != "meta":
                self._count(each)
        return made

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak, self.during = self.live, self._work

    @contextlib.contextmanager
    def doing(self, work: str) -> Iterator[None]:
        """Name the work inside the block."""
        before, self._work = self._work, work
        try:
            yield
        finally:
            self._work = before

    def extra(self, work: Callable[[], T]) -> tuple[T, int]:
        """Return what `work` returns, and the bytes that it took at its peak in addition to those before."""
        before, outer = self.live, (self.peak, self.during)
        self.restart()
        made, extra = work(), self.peak - before
        if outer[0] >= self.peak:
            self.peak, self.during = outer
        return made, extra

    def note(self, extra: int) -> None:
        """Count bytes that are taken for a moment."""
        if self.live + extra > self.peak:
            self.peak, self.during = self.live + extra, self._work

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        real = 0 if isinstance(tensor, FakeTensor) else size
        weakref.finalize(storage, self._drop, key, size, real).atexit = False
        self.live, self.real = self.live + size, self.real + real
        self.real_peak = max(self.real_peak, self.real)
        self.note(0)

    def _drop(self, key: int, size: int, real: int) -> None:
        self._known.discard(key)
        self.live, self.real = self.live - size, self.real - real
