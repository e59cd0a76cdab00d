"""Whether the Hugging Face Hub can be reached, found out once and quickly."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

_SECONDS = 3


def settle_hub_access(names: Iterable[str | None]) -> bool:
    """Turns the libraries' offline mode on where a run names something on the Hub and the Hub does not answer.

    They would otherwise ask again and again for each file, half a minute for each name; offline they take what is in
    their cache. To be called before they are imported, because they read HF_HUB_OFFLINE once.

    Args:
        names: paths and Hub ids of a run; None where there is none.

    Returns: whether the Hub is out of reach; False where nothing is asked of it.
    """
    if not any(name and is_hub_id(name) for name in names):
        return False
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return True
    if _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        return False
    os.environ["HF_HUB_OFFLINE"] = "1"
    return True


def is_hub_id(name: str | Path) -> bool:
    """Whether a name can only be that of a repository on the Hub: no path, at most one slash, and no such file here."""
    if not isinstance(name, str) or not name:
        return False
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and not Path(name).exists()


def _answers(endpoint: str) -> bool:
    if not endpoint.startswith(("https://", "http://")):
        return False
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        # No connection, no such address, or something that speaks no HTTP.
        return False
