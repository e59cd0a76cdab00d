"""When a number of a training deserves an alert: the guards of the trainer and the report of a run agree on it."""

COLLAPSE_RATIO = 1.5
COLLAPSE_NATS = 5.0
IDLE_SHARE = 0.001
SATURATED_SHARE = 0.95


def collapsed(chosen: float, reference: float) -> bool:
    """Whether the policy has moved away from the responses that it is trained to prefer, by their mean log-probability
    in nats under the policy and under the reference."""
    return chosen < COLLAPSE_RATIO * reference and reference - chosen > COLLAPSE_NATS


def idle(share: float) -> bool:
    """Whether a follower that moves this share of the pairs changes almost nothing: training is nearly plain DPO."""
    return share < IDLE_SHARE


def saturated(share: float) -> bool:
    """Whether a follower that moves this share of the pairs leaves too little of the data to learn from."""
    return share > SATURATED_SHARE
