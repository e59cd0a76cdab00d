"""Checks of SGPOConfig: one message per mistake, with the argument, its value and what is allowed."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.leader.config import SGPOConfig


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of a few names."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, choices))}.")


def check_radius(args: "SGPOConfig") -> None:
    """A mapping of source names to radii, as numbers."""
    radii = args.source_radius
    if radii is None:
        return
    if not isinstance(radii, dict) or not radii:
        raise ValueError(
            f"source_radius is {radii!r}; allowed: a mapping of source names to radii, as JSON on the command line "
            '(\'{"human": 0, "self": 0.05}\').'
        )
    for source, radius in radii.items():
        number = isinstance(radius, int | float) and not isinstance(radius, bool)
        if not (number and math.isfinite(radius) and radius >= 0):
            raise ValueError(f"source_radius[{source!r}] is {radius!r}; allowed: a finite number >= 0.")


def check_explicit_window(args: "SGPOConfig") -> None:
    """The window of rule "explicit"; fills in [0, 1] in probability space."""
    if args.window is None:
        if args.space == "margin":
            raise ValueError(
                "window is None with space='margin'; allowed: [a, b] in nats, a below every gap, or window_rule "
                "'min_max' or 'quantiles'. Without a window the worst case is DPO's loss plus a constant "
                "(PAPER.md D2)."
            )
        args.window = [0.0, 1.0]
    if len(args.window) != 2 or not args.window[0] < args.window[1]:
        raise ValueError(f"window is {args.window}; allowed: two numbers [a, b] with a < b.")
    if args.space == "probability" and not (args.window[0] >= 0 and args.window[1] <= 1):
        raise ValueError(f"window is {args.window} with space='probability'; allowed: within [0, 1].")
    if args.space == "probability" and args.tangents == 0 and args.window[0] == 0:
        raise ValueError(
            "tangents is 0 with a window that starts at 0 in probability space, where -log p is infinite; "
            "allowed: tangents >= 1, or a window that starts above 0."
        )


def check_window_rule(args: "SGPOConfig") -> None:
    """The arguments of the rules; one that the rule in force would ignore is refused."""
    if not (math.isfinite(args.window_margin) and args.window_margin >= 0):
        raise ValueError(f"window_margin is {args.window_margin}; allowed: a finite number >= 0.")
    if args.window_rule == "explicit" and args.window_margin:
        raise ValueError(
            f"window_margin is {args.window_margin} with window_rule='explicit'; allowed: 0, or the rule 'min_max' or "
            "'quantiles'."
        )
    if args.window_rule != "explicit" and args.window is not None:
        raise ValueError(
            f"window is {args.window} with window_rule={args.window_rule!r}; allowed: None, or window_rule 'explicit'."
        )
    levels = args.window_quantiles
    if levels is None:
        return
    if args.window_rule != "quantiles":
        raise ValueError(
            f"window_quantiles is {levels} with window_rule={args.window_rule!r}; allowed: None, or the rule "
            "'quantiles'."
        )
    if len(levels) != 2 or not 0 <= levels[0] < levels[1] <= 1:
        raise ValueError(f"window_quantiles is {levels}; allowed: two levels [low, high] with 0 <= low < high <= 1.")


def check_follower_options(args: "SGPOConfig") -> None:
    """Options of one step or schedule alone, and TRL's padding_free, which TRL itself ignores."""
    if not (math.isfinite(args.proximal) and args.proximal >= 0):
        raise ValueError(f"proximal is {args.proximal}; allowed: a finite number >= 0.")
    if args.proximal and args.step != "mixture":
        raise ValueError(f"proximal is {args.proximal} with step={args.step!r}; allowed: 0, or step 'mixture'.")
    if args.recent_pairs is not None:
        if args.recent_pairs < 1:
            raise ValueError(f"recent_pairs is {args.recent_pairs}; allowed: a number >= 1, or None.")
        if args.schedule != "step":
            raise ValueError(
                f"recent_pairs is {args.recent_pairs} with schedule={args.schedule!r}; allowed: None, or schedule "
                "'step'."
            )
    if args.solver != "exact" and args.tangents == 0:
        raise ValueError(
            f"tangents is 0 with solver={args.solver!r}, which needs a piecewise linear link; allowed: tangents >= 1, "
            "or solver 'exact'."
        )
    if args.group_size is not None and args.group_size < 1:
        raise ValueError(f"group_size is {args.group_size}; allowed: a number >= 1, or None.")
    if args.padding_free:
        raise ValueError(
            "padding_free is True; allowed: False. TRL 1.16 has switched it off and would pad without saying more "
            "than a warning."
        )


def check_loss(args: "SGPOConfig") -> None:
    """Refuses what the robust loss does not combine with."""
    if not args.is_robust:
        return
    with_radius = f"radius {args.radius}" if args.source_radius is None else f"source_radius {args.source_radius}"
    check_sigmoid(args, with_radius, "radius=0")
    if args.use_weighting:
        raise ValueError(
            f"use_weighting is True with {with_radius}; allowed: False, or radius=0: WPO's weights follow the "
            "policy, and the follower solves for weights that stand still. Weights of your own go in the dataset's "
            "column 'weight'."
        )
    if args.sync_ref_model:
        raise ValueError(
            f"sync_ref_model is True with {with_radius}; allowed: False, or radius=0: a reference that "
            "moves during training changes the gaps that the worst case was solved for."
        )


def check_sigmoid(args: "SGPOConfig", what: str, without: str) -> None:
    """A sigmoid loss of the margin, in whose place another loss goes."""
    if args.loss_type.count("sigmoid") != 1:
        raise ValueError(
            f"loss_type is {args.loss_type} with {what}; allowed: a list that holds 'sigmoid' once "
            f"(the part that changes), or {without}."
        )
    if args.f_divergence_type != "reverse_kl":
        raise ValueError(
            f"f_divergence_type is {args.f_divergence_type!r} with {what}; allowed: 'reverse_kl', "
            f"for which the gap is the implicit reward difference, or {without}."
        )
