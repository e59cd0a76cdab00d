"""The leader of the game: TRL's DPOTrainer against the worst case."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.leader.config import SGPOConfig as SGPOConfig
    from sgpo.leader.trainer import SGPOTrainer as SGPOTrainer

_HOMES = {"SGPOConfig": "sgpo.leader.config", "SGPOTrainer": "sgpo.leader.trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
