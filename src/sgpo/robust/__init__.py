"""Worst-case distributions of preference gaps: NumPy, SciPy and PyTorch only, no files, no models, no logging."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Ball": "ball",
    "ConvexLink": "link",
    "Link": "link",
    "TangentLink": "link",
    "make_link": "link",
    "tangent_link": "link",
    "WorstCase": "solution",
    "worst_case": "exact",
    "certify": "proofs",
    "dual_value": "proofs",
    "paper_variables": "proofs",
    "value_curve": "proofs",
    "envelope_loss": "losses",
    "marginal_split": "losses",
    "mixture_loss": "losses",
    "robust_value": "losses",
    "transport_loss": "losses",
    "StreamedCase": "streaming",
    "solve_stream": "streaming",
    "PriceTracker": "primal_dual",
    "price_regret": "primal_dual",
    "grouping_gap": "paper",
    "solve_worst_case": "paper",
    "surrogate_gap": "paper",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
