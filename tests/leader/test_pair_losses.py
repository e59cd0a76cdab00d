"""A loss of pairs is one object: the trainer asks nothing else of it."""

import itertools

import pytest
import torch
from trl import DPOConfig, DPOTrainer

from leader.batches import assert_same_gradients, loss_and_gradients
from sgpo.leader import SGPOConfig
from sgpo.leader.pair_loss import PairLoss, PairLosses
from sgpo.leader.pair_losses import PAIR_LOSSES, find_loss

REQUESTS = {
    "RobustLoss": {"radius": 0.1},
    "SmoothedLoss": {"confidence_smoothing": 0.1},
    "DrDPOLoss": {"dr_dpo_beta": 0.5},
}


class HingeLoss(PairLoss):
    def losses(self, batch):
        return PairLosses(torch.relu(1 - batch.margins), {"hinge/active": (batch.margins < 1).float().mean()})


def test_a_loss_of_ones_own_replaces_the_sigmoid_and_logs_its_metrics(make_trainer):
    ours, theirs = make_trainer(radius=0.0), make_trainer(DPOTrainer, DPOConfig, loss_type=["hinge"])
    ours.pair_loss = HingeLoss()
    first, second = loss_and_gradients(ours), loss_and_gradients(theirs)
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    assert_same_gradients(first[1], second[1], 1e-5)
    (active,) = ours._metrics["train"]["hinge/active"]
    assert 0 < active <= 1


def test_each_loss_is_found_by_its_own_argument_and_goes_alone(make_arguments):
    assert set(REQUESTS) == {loss.__name__ for loss in PAIR_LOSSES}
    assert find_loss(make_arguments(radius=0.0)) is PairLoss
    for loss in PAIR_LOSSES:
        assert find_loss(make_arguments(**{"radius": 0.0, **REQUESTS[loss.__name__]})) is loss
    for first, second in itertools.combinations(REQUESTS.values(), 2):
        with pytest.raises(ValueError, match="because each replaces the sigmoid loss"):
            make_arguments(**{"radius": 0.0, **first, **second})


def test_no_two_losses_share_an_argument_or_a_file_of_a_checkpoint():
    files = [loss.state_file for loss in PAIR_LOSSES if loss.state_file]
    names = [name for loss in PAIR_LOSSES for name in loss.Settings.__dataclass_fields__]
    assert len(set(files)) == len(files)
    assert len(set(names)) == len(names)
    assert set(names) <= set(SGPOConfig.__dataclass_fields__) - set(DPOConfig.__dataclass_fields__)
