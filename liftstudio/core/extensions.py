"""All components that a user can name: those of liftstudio, of its methods, and of the extensions in `custom/`."""

from pathlib import Path

from liftstudio.core import assets, registry
from liftstudio.core.logs import log


def load_components(verbose: bool = False) -> None:
    """Import the user's extensions and declare the methods; warn about extensions that fail to load.

    verbose: show the whole traceback of a failure.
    """
    custom = Path("custom")
    if not assets.is_checkout() or custom.resolve() != assets.CHECKOUT / "custom":
        registry.load_extensions(custom)
    registry.load_methods()
    for name, trace in registry.extension_failures.items():
        reason = trace.strip() if verbose else trace.strip().splitlines()[-1]
        log.warning("extension '%s' failed to load: %s", name, reason)
