"""Arguments of the leader: TRL's DPO arguments and the follower's."""

import math
from dataclasses import dataclass, field

from trl import DPOConfig

SPACES = ("margin", "probability")


@dataclass
class SGPOConfig(DPOConfig):
    r"""Configuration of `SGPOTrainer`: every argument of TRL's `DPOConfig`, and the follower's.

    Args:
        radius: Wasserstein radius of the follower, in the unit of the gap space; >= 0. 0 is DPO.
        space: gap space of the follower, `"margin"` (nats, the theory) or `"probability"` (its sigmoid, the paper's
            experiments); PAPER.md D4.
        tangents: K, the number of tangents that replace the link from below; 0 takes the exact link. In
            probability space the exact link is infinite at 0, so 0 then needs a `window` that starts above 0.
        window: `[a, b]`, the support of the worst case in the unit of the gap space. Probability space defaults to
            `[0, 1]`; margin space has no default (PAPER.md D2: without a window the game is DPO).

    Raises:
        ValueError: an argument out of range, or one that the robust loss does not combine with.
    """

    radius: float = field(
        default=0.01,
        metadata={"help": "Wasserstein radius of the follower, in the unit of the gap space; 0 is DPO."},
    )
    space: str = field(
        default="probability",
        metadata={"help": "Gap space of the follower: 'margin' (nats) or 'probability' (its sigmoid)."},
    )
    tangents: int = field(
        default=6,
        metadata={"help": "Number of tangents that replace the link from below (the paper's K); 0: the exact link."},
    )
    window: list[float] | None = field(
        default=None,
        metadata={"help": "Support [a, b] of the worst case; required in margin space, [0, 1] in probability space."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise ValueError(f"radius is {self.radius}; allowed: a finite number >= 0.")
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; allowed: {', '.join(map(repr, SPACES))}.")
        if self.tangents < 0:
            raise ValueError(f"tangents is {self.tangents}; allowed: 0 (the exact link) or a positive number.")
        if self.radius > 0:
            self._check_window()
        self._check_loss()

    def _check_window(self) -> None:
        if self.window is None:
            if self.space == "margin":
                raise ValueError(
                    "window is None with space='margin'; allowed: [a, b] in nats, a below every gap. "
                    "Without a window the worst case is DPO's loss plus a constant (PAPER.md D2)."
                )
            self.window = [0.0, 1.0]
        if len(self.window) != 2 or not self.window[0] < self.window[1]:
            raise ValueError(f"window is {self.window}; allowed: two numbers [a, b] with a < b.")
        if self.space == "probability" and not (self.window[0] >= 0 and self.window[1] <= 1):
            raise ValueError(f"window is {self.window} with space='probability'; allowed: within [0, 1].")
        if self.space == "probability" and self.tangents == 0 and self.window[0] == 0:
            raise ValueError(
                "tangents is 0 with a window that starts at 0 in probability space, where -log p is infinite; "
                "allowed: tangents >= 1, or a window that starts above 0."
            )

    def _check_loss(self) -> None:
        """Refuses what would be ignored: TRL drops `label_smoothing` for the sigmoid loss without a word."""
        if self.label_smoothing != 0 and "sigmoid" in self.loss_type:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing} with loss_type {self.loss_type}; allowed: 0, because the "
                "sigmoid loss ignores it."
            )
        if self.radius == 0:
            return
        if self.loss_type.count("sigmoid") != 1:
            raise ValueError(
                f"loss_type is {self.loss_type} with radius {self.radius}; allowed: a list that holds 'sigmoid' once "
                "(the part that becomes robust), or radius=0."
            )
        if self.f_divergence_type != "reverse_kl":
            raise ValueError(
                f"f_divergence_type is {self.f_divergence_type!r} with radius {self.radius}; allowed: 'reverse_kl', "
                "for which the gap is the implicit reward difference, or radius=0."
            )
        if self.use_weighting:
            raise ValueError(
                f"use_weighting is True with radius {self.radius}; allowed: False, or radius=0: the follower solves "
                "for pairs of equal weight."
            )
        if self.sync_ref_model:
            raise ValueError(
                f"sync_ref_model is True with radius {self.radius}; allowed: False, or radius=0: a reference that "
                "moves during training changes the gaps that the worst case was solved for."
            )
