"""cledet: object detection with classification and localization in equilibrium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cledet.detector import Detector
    from cledet.errors import UserError
    from cledet.inference.results import Detection, Results

__version__ = "0.2.0"
__all__ = ["Detection", "Detector", "Results", "UserError", "__version__"]

_HOME = {
    "Detection": "cledet.inference.results",
    "Detector": "cledet.detector",
    "Results": "cledet.inference.results",
    "UserError": "cledet.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `cledet --help` imports no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'cledet' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
