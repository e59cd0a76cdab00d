"""Whether the Hugging Face Hub can be reached, tested once and quickly."""

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

_SECONDS = 3


def is_hub_id(name: str | Path) -> bool:
    """Whether a name can only be a Hub id: no path by its form (leading . / ~, two slashes), and not on this disk."""
    if not isinstance(name, str) or not name:
        return False
    return not name.startswith((".", "/", "~")) and name.count("/") <= 1 and not os.path.exists(name)


def settle_hub_access(names: Iterable[str | None]) -> bool:
    """Turns on the libraries' offline mode if a run names something on the Hub and the Hub does not answer; else they
    would retry each file. Call it before they are imported. Returns whether the Hub is needed and out of reach."""
    if not any(is_hub_id(name) for name in names):
        return False
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return True
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if endpoint.startswith(("https://", "http://")) and ask_status(endpoint, _SECONDS, "HEAD") is not None:
        return False
    os.environ["HF_HUB_OFFLINE"] = "1"
    return True


def ask_status(address: str, timeout: float, method: str = "GET") -> int | None:
    """The status of the reply at an address; None without a connection, or if that is no HTTP address."""
    try:
        request = urllib.request.Request(address, method=method)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return None
