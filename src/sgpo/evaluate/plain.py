"""Results as plain JSON values."""

import math
from typing import Any

import numpy as np


def as_plain(value: Any) -> Any:
    """Named tuples become objects, tuple keys are joined by a slash, and numbers that are not finite become null."""
    if hasattr(value, "_asdict"):
        return as_plain(value._asdict())
    if isinstance(value, dict):
        return {
            "/".join(map(str, key)) if isinstance(key, tuple) else str(key): as_plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return as_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
