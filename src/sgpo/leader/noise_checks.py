"""Checks of SGPOConfig's losses for noisy labels: label smoothing, confidence, Dr. DPO."""

import dataclasses
import math
from typing import TYPE_CHECKING

from sgpo.leader.checks import check_sigmoid

if TYPE_CHECKING:
    from sgpo.leader.config import SGPOConfig

# TRL 1.16's losses that read label_smoothing; all others drop it without a word.
_SMOOTHED_LOSSES = ("robust", "exo_pair", "aot", "aot_unpaired")


def check_label_smoothing(args: "SGPOConfig") -> None:
    """TRL's label_smoothing where a loss would ignore it."""
    eta = args.label_smoothing
    if eta and ("sigmoid" in args.loss_type or not set(args.loss_type) & set(_SMOOTHED_LOSSES)):
        raise ValueError(
            f"label_smoothing is {eta} with loss_type {args.loss_type}; allowed: 0, because TRL's loss ignores it. For "
            f"rDPO use loss_type 'robust' with label_smoothing {eta}; for cDPO use loss_type 'sigmoid' with "
            f"confidence_smoothing={eta}, confidence_quantile=1, confidence_warmup=0 and radius=0."
        )


def check_confidence(args: "SGPOConfig") -> None:
    """SPA's smoothing: ranges, arguments that would be ignored, and what it does not combine with."""
    alpha = args.confidence_smoothing
    if not 0 <= alpha <= 0.5:
        raise ValueError(f"confidence_smoothing is {alpha}; allowed: 0 (off) to 0.5.")
    if not 0 < args.confidence_quantile <= 1:
        raise ValueError(
            f"confidence_quantile is {args.confidence_quantile}; allowed: a number > 0 (no pair is ever doubted at 0) "
            "and <= 1 (every pair is)."
        )
    if not 0 <= args.confidence_warmup < 1:
        raise ValueError(f"confidence_warmup is {args.confidence_warmup}; allowed: a share >= 0 and < 1 of the steps.")
    if args.confidence_pairs < 1:
        raise ValueError(f"confidence_pairs is {args.confidence_pairs}; allowed: a number >= 1.")
    if not (math.isfinite(args.decoupling) and args.decoupling >= 1):
        raise ValueError(f"decoupling is {args.decoupling}; allowed: 1 (off), or a finite number above 1.")
    if alpha == 0:
        _refuse_changed(args, "confidence_smoothing=0", "confidence_quantile", "confidence_warmup")
    if alpha == 0 or args.confidence_quantile == 1:
        off = "confidence_smoothing=0" if alpha == 0 else "confidence_quantile=1, which doubts every pair"
        _refuse_changed(args, off, "confidence_pairs", "decoupling")
    if alpha > 0:
        _check_plain(args, f"confidence_smoothing {alpha}", "confidence_smoothing=0")


def check_dr_dpo(args: "SGPOConfig") -> None:
    """Dr. DPO: its range, and what it does not combine with."""
    beta = args.dr_dpo_beta
    if beta is None:
        return
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"dr_dpo_beta is {beta}; allowed: a finite number > 0 (nats), or None.")
    _check_plain(args, f"dr_dpo_beta {beta}", "no dr_dpo_beta")
    if args.confidence_smoothing:
        raise ValueError(
            f"confidence_smoothing is {args.confidence_smoothing} with dr_dpo_beta {beta}; allowed: one of the two."
        )
    if not args.disable_dropout:
        raise ValueError(
            f"disable_dropout is False with dr_dpo_beta {beta}; allowed: True, because the pass that weighs the pairs "
            "must see the losses that the weighted pass has."
        )


def _check_plain(args: "SGPOConfig", what: str, without: str) -> None:
    if args.is_robust:
        radius = f"radius is {args.radius}" if args.source_radius is None else f"source_radius is {args.source_radius}"
        raise ValueError(f"{radius} with {what}; allowed: radius=0, or {without}: two answers to noisy labels.")
    check_sigmoid(args, what, without)
    for name in ("use_weighting", "sync_ref_model"):
        if getattr(args, name):
            raise ValueError(f"{name} is True with {what}; allowed: False, or {without}.")


def _refuse_changed(args: "SGPOConfig", off: str, *names: str) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name in names:
        if getattr(args, name) != defaults[name]:
            raise ValueError(
                f"{name} is {getattr(args, name)} with {off}; allowed: {defaults[name]}, the default, because it would "
                "be ignored."
            )
