"""Arguments of the leader: TRL's DPO arguments and the follower's."""

import math
from dataclasses import dataclass, field
from typing import Any

from trl import DPOConfig

from sgpo.leader.checks import (
    check_choice,
    check_explicit_window,
    check_follower_options,
    check_loss,
    check_radius,
    check_window_rule,
)
from sgpo.leader.noise_checks import check_confidence, check_dr_dpo, check_label_smoothing

SPACES = ("margin", "probability")
STEPS = ("envelope", "transport", "mixture")
SCHEDULES = ("round", "epoch", "step")
SOLVERS = ("exact", "highs", "slsqp")
WINDOW_RULES = ("explicit", "min_max", "quantiles")


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
        window_rule: where the window comes from each time the follower answers: `"explicit"` (`window`), `"min_max"`
            (the smallest and the largest gap) or `"quantiles"` of the gaps; both widened by `window_margin`.
        window_margin: tau >= 0, in the unit of the gap space, for the rules `"min_max"` and `"quantiles"`.
        window_quantiles: two levels in [0, 1] for the rule `"quantiles"`; default `[0.01, 0.99]`.
        step: how the leader meets the worst case: `"envelope"` (the exact gradient of the robust value),
            `"transport"` (displacements held still) or `"mixture"` (the active pieces); PAPER.md D3.
        proximal: weight >= 0 of the pull towards the displaced gaps, with `step="mixture"`.
        schedule: when the follower answers: `"round"` (once, before the first step), `"epoch"` (at each epoch's start,
            to the gaps that training saw in the epoch before) or `"step"` (after every optimiser step, to the
            `recent_pairs` latest gaps).
        recent_pairs: pairs in the running window of `schedule="step"`, per source; default 1024, and never more than
            the dataset holds.
        solver: `"exact"`, or the paper's way, `"highs"` or `"slsqp"`, which take links with tangents only.
        group_size: G, random groups of pairs that are each solved by themselves (the paper: 100); None: all at once.
        source_radius: radius by the name in the dataset's `source` column, in place of `radius`; each source has a
            ball and a price of its own. JSON on the command line.
        reference_fingerprint: which reference policy the dataset's stored reference log-probabilities must come from,
            see `sgpo.leader.scores.fingerprint_policy`. None believes them.
        guards: watch training: warn, once each, of a collapse of the chosen log-probability and of a follower that
            moves (nearly) nothing or everything; stop at a loss or gradient that is not finite, before it is applied.
        confidence_smoothing: SPA's alpha in [0, 0.5], with `radius=0`: the labels of pairs that the policy itself
            doubts count as wrong with this probability; 0 is off. A pair is doubted when its margin is not above the
            quantile `confidence_quantile` of the latest ones, over all processes.
        confidence_quantile: level in (0, 1]; 1 doubts every pair, which is cDPO.
        confidence_warmup: share of all optimiser steps, in [0, 1), that go by without smoothing.
        confidence_pairs: how many of the latest margins make the quantile, in whole optimiser steps.
        decoupling: SPA's lambda >= 1 of the de-coupled noise detection; margins are then judged under
            `log_softmax(lambda * policy + (1 - lambda) * reference)`, which needs a reference model. 1 is off.
        dr_dpo_beta: beta' > 0 of Dr. DPO in nats, with `radius=0`, over all pairs of an optimiser step; costs a further
            forward pass. None is off.

    Raises:
        ValueError: an argument out of range, one that would be ignored, or one that the robust loss does not combine
            with.
    """

    _VALID_DICT_FIELDS = DPOConfig._VALID_DICT_FIELDS + ["source_radius"]  # noqa: RUF005 -- as TRL extends it

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
    window_rule: str = field(
        default="explicit",
        metadata={"help": "Where the window comes from: 'explicit', 'min_max' or 'quantiles' of the gaps."},
    )
    window_margin: float = field(
        default=0.0,
        metadata={"help": "How far the rules 'min_max' and 'quantiles' widen the window, in the gap space's unit."},
    )
    window_quantiles: list[float] | None = field(
        default=None,
        metadata={"help": "Two levels in [0, 1] for window_rule 'quantiles'; default 0.01 0.99."},
    )
    step: str = field(
        default="envelope",
        metadata={"help": "How the leader meets the worst case: 'envelope', 'transport' or 'mixture'."},
    )
    proximal: float = field(
        default=0.0,
        metadata={"help": "Weight of the pull towards the displaced gaps, with step 'mixture'."},
    )
    schedule: str = field(
        default="round",
        metadata={"help": "When the follower answers: once ('round'), every 'epoch' or every 'step'."},
    )
    recent_pairs: int | None = field(
        default=None,
        metadata={"help": "Pairs in the running window of schedule 'step', per source; default 1024."},
    )
    solver: str = field(
        default="exact",
        metadata={"help": "Solver of the follower: 'exact', or for comparison 'highs' or 'slsqp'."},
    )
    group_size: int | None = field(
        default=None,
        metadata={"help": "Pairs in a random group that the follower solves by itself; default: all at once."},
    )
    source_radius: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Radius by the name in the dataset's source column, in place of radius; JSON."},
    )
    reference_fingerprint: str | None = field(
        default=None,
        metadata={"help": "Reference policy that stored reference log-probabilities must come from."},
    )
    guards: bool = field(
        default=True,
        metadata={"help": "Warn of collapse and of an idle or saturated follower; stop at a loss that is not finite."},
    )
    confidence_smoothing: float = field(
        default=0.0,
        metadata={"help": "SPA's alpha: how wrong the labels of doubted pairs count, with radius 0; 0 is off."},
    )
    confidence_quantile: float = field(
        default=0.1,
        metadata={"help": "Share of the latest margins at or below which a pair is doubted; 1 doubts all (cDPO)."},
    )
    confidence_warmup: float = field(
        default=0.2,
        metadata={"help": "Share of the optimiser steps that go by without confidence_smoothing."},
    )
    confidence_pairs: int = field(
        default=128,
        metadata={"help": "How many of the latest margins, over all processes, make the quantile."},
    )
    decoupling: float = field(
        default=1.0,
        metadata={"help": "SPA's lambda: doubts are judged by lambda * policy + (1 - lambda) * reference; 1 is off."},
    )
    dr_dpo_beta: float | None = field(
        default=None,
        metadata={"help": "Dr. DPO's beta' over the whole optimiser step, with radius 0; not given: off."},
    )

    @property
    def is_robust(self) -> bool:
        """Whether any pair may meet a follower: a radius above 0."""
        if self.source_radius is not None:
            return any(radius > 0 for radius in self.source_radius.values())
        return self.radius > 0

    @property
    def has_pair_loss(self) -> bool:
        """Whether the sigmoid loss gives way to one of our own, with or without weights."""
        return self.is_robust or self.confidence_smoothing > 0 or self.dr_dpo_beta is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise ValueError(f"radius is {self.radius}; allowed: a finite number >= 0.")
        check_radius(self)
        check_choice("space", self.space, SPACES)
        check_choice("step", self.step, STEPS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("window_rule", self.window_rule, WINDOW_RULES)
        if self.tangents < 0:
            raise ValueError(f"tangents is {self.tangents}; allowed: 0 (the exact link) or a positive number.")
        check_window_rule(self)
        if self.is_robust and self.window_rule == "explicit":
            check_explicit_window(self)
        check_follower_options(self)
        check_label_smoothing(self)
        check_loss(self)
        check_confidence(self)
        check_dr_dpo(self)
