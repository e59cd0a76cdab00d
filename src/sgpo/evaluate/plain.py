"""Results as plain JSON values."""

import math
from typing import Any

import numpy as np


def as_plain(value: Any) -> Any:
    """Named tuples become objects, tuple keys are joined by a slash, and a number that is not finite becomes null."""
    if hasattr(value, "_asdict"):
        return as_plain(value._asdict())
    if isinstance(value, dict):
        return {_name(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, np.generic):
        return as_plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(key: Any) -> str:
    return "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
