"""Plug-ins that process generated views before a run uses them."""

from abc import abstractmethod
from typing import Any

import torch

from liftstudio.core.registry import Component


class ViewPlugIn(Component):
    """Computes something from reference views; the result is cached by the views and the plug-in's fingerprint."""

    @abstractmethod
    def __init__(self, config: Any, *, device: torch.device) -> None:
        """Check options and files, before the views are generated.

        Raises:
            InputError: the options or the files are invalid.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return all that determines the result besides the views, as plain data: options and digests of files."""
