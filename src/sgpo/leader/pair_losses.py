"""The losses that may replace DPO's sigmoid loss. A new one is one more line here."""

from typing import Any

from datasets import Dataset

from sgpo.errors import InputError
from sgpo.leader.confidence import SmoothedLoss
from sgpo.leader.dr_dpo import DrDPOLoss
from sgpo.leader.pair_loss import PairLoss
from sgpo.leader.pairs import check_weighted, require
from sgpo.leader.robust_loss import RobustLoss

PAIR_LOSSES: tuple[type[PairLoss], ...] = (RobustLoss, SmoothedLoss, DrDPOLoss)


def find_loss(args: Any) -> type[PairLoss]:
    """The loss that the arguments of a trainer ask for; `PairLoss`, DPO's own, if they ask for none."""
    return next((loss for loss in PAIR_LOSSES if loss.request(args) is not None), PairLoss)


def check_loss(args: Any) -> None:
    """Raises InputError for arguments of a loss that do not go together or would be ignored, and for two losses."""
    for loss in PAIR_LOSSES:
        loss.check(args)
    requests = [request for loss in PAIR_LOSSES if (request := loss.request(args)) is not None]
    if not requests:
        return
    what, *others = requests
    if others:
        raise InputError(
            f"{what.name} is {what.value} with {others[0]}; allowed: {what.off}, or {others[0].off}, because each "
            "replaces the sigmoid loss."
        )
    if args.loss_type.count("sigmoid") != 1:
        raise InputError(
            f"loss_type is {args.loss_type} with {what}; allowed: a list that holds 'sigmoid' once (the part that is "
            f"replaced), or {what.off}."
        )
    # With another divergence a gap is not the implicit reward difference. WPO's weights follow the policy, and a moving
    # reference changes all gaps, so stored gaps would become wrong.
    values = {"f_divergence_type": "reverse_kl", "use_weighting": False, "sync_ref_model": False}
    require(args, values, str(what), what.off)


def check_dataset(dataset: Any, args: Any) -> None:
    """Checks, before any model is loaded, that a training set has pairs, and weights, that the loss can take."""
    sample = next(iter(dataset), {})
    loss, without = find_loss(args), "a dataset without the column"
    request = loss.request(args)
    if "weight" in sample:
        what = "a 'weight' column"
        check_weighted(args)
        if not loss.takes_weights:
            raise InputError(f"{request.name} is {request.value} with {what}; allowed: {request.off}, or {without}.")
    elif request is not None:
        what, without = str(request), request.off
    else:
        return
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"train_dataset is a {type(dataset).__name__} with {what}; allowed: a datasets.Dataset, whose pairs have "
            f"rows, gaps and a mean weight, or {without}."
        )
    if "image" in sample or "images" in sample:
        raise InputError(f"train_dataset holds images with {what}; allowed: text, or {without}.")
