"""The papers' methods, one package each. In a checkout they lie in `custom/`, from where an installation takes them."""

from liftstudio.core import assets

if assets.is_checkout():
    __path__.append(str(assets.CHECKOUT / "custom"))
