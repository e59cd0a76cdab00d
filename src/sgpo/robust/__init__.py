"""Worst-case distributions of preference gaps: NumPy, SciPy and PyTorch only, no files, no models, no logging."""

from importlib import import_module
from typing import Any

_MODULES = {
    "ball": ("Ball",),
    "exact": ("worst_case",),
    "link": ("ConvexLink", "Link", "TangentLink", "make_link", "tangent_link"),
    "losses": ("envelope_loss", "marginal_split", "mixture_loss", "robust_value", "transport_loss"),
    "paper": ("solve_worst_case",),
    "proofs": ("certify", "dual_value", "value_curve"),
    "solution": ("WorstCase",),
    "streaming": ("StreamedCase", "solve_stream"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
