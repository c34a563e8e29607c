"""Plug-ins of generated views: what is made of them before a run sees them."""

from abc import abstractmethod
from typing import Any

import torch

from liftstudio.core.registry import Component


class ViewPlugIn(Component):
    """Makes something of reference views; the result is cached by the views and the plug-in's fingerprint."""

    @abstractmethod
    def __init__(self, config: Any, *, device: torch.device) -> None:
        """Check options and files, before the views are made.

        Raises:
            InputError: the options or the files are refused.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All that decides the result beside the views, as plain data: its options, and digests of its files."""
