"""`--plan`: whether a run fits into the memory of a device, what takes it, and what to change if it does not fit."""

from collections.abc import Iterator
from pathlib import Path

import torch

from liftstudio.core.errors import InputError
from liftstudio.core.memory import total_memory_gb
from liftstudio.run.cards import CARDS
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.plan import PARTS, Phase, advice, plan

SHOWN = 3  # pieces of advice for a phase


def check_memory(card: str | None, memory_gb: float | None) -> None:
    """Raise an InputError unless at most one of card and memory is given, and both are possible."""
    if card is not None and memory_gb is not None:
        raise InputError("--card, --memory: both given; give one of them")
    if card is not None and card not in CARDS:
        raise InputError(f"--card {card}: unknown; known: {', '.join(CARDS)}; or give its gigabytes: --memory 24")
    if memory_gb is not None and not 0 < memory_gb < float("inf"):
        raise InputError(f"--memory: expected gigabytes above 0, got {memory_gb:g}")


def report(config_file: Path, overrides: list[str], card: str | None, memory_gb: float | None) -> str:
    """Return the plan of a run as text.

    Args:
        config_file: its config.
        overrides: key=value, see `load_run_config`.
        card: name of a graphics card, one of CARDS. memory_gb: or its memory. None: the config's device.

    Raises:
        InputError: see `load_run_config` and `plan`.
    """
    config = load_run_config(config_file, overrides)
    kind, size_gb = _device(config, card, memory_gb)
    phases = plan(config, kind)
    return "\n".join([*report_of(config, phases, size_gb), ""])


def report_of(config: RunConfig, phases: list[Phase], size_gb: float) -> list[str]:
    """Return the lines of a plan: a table, whether it fits into `size_gb`, and what to change if it does not."""
    return [*_table(phases), "", *_verdict(config, phases, size_gb)]


def _device(config: RunConfig, card: str | None, memory_gb: float | None) -> tuple[str, float]:
    """Return the kind of device that is planned for, and its memory in GB."""
    if card is not None or memory_gb is not None:
        return "cuda", float(CARDS[card] if card is not None else memory_gb or 0)
    if config.device != "cpu" and torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_properties(0).total_memory / 1e9
    return "cpu", total_memory_gb() or float("inf")


def _table(phases: list[Phase]) -> Iterator[str]:
    yield f"{'GB at the peak':20}{'all':>8}" + "".join(f"{part:>13}" for part in PARTS) + "  while"
    for phase in phases:
        parts = "".join(f"{getattr(phase, part) / 1e9:13.2f}" for part in PARTS)
        yield f"{phase.name:20}{phase.total / 1e9:8.2f}{parts}  {phase.during}".rstrip()


def _verdict(config: RunConfig, phases: list[Phase], size_gb: float) -> Iterator[str]:
    most = max(phases, key=lambda phase: phase.total)
    fits = most.total <= size_gb * 1e9
    yield f"{'fits' if fits else 'does not fit'}: {most.total / 1e9:.1f} of {size_gb:.4g} GB, in {most.name}"
    for phase in phases:
        if phase.total > size_gb * 1e9:
            yield f"{phase.name}: try {' or '.join(advice(config, phase)[:SHOWN]) or 'a card with more memory'}"
