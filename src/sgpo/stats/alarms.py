"""Thresholds beyond which a run's numbers say that something went wrong."""

COLLAPSE_RATIO = 1.5  # times the log-probability that the reference gives to the same responses
COLLAPSE_NATS = 5.0
IDLE_SHARE = 0.001
SATURATED_SHARE = 0.95


def collapsed(chosen: float, reference: float) -> bool:
    """Whether the mean log-probability of the chosen responses fell far below the reference's, both in nats."""
    return chosen < COLLAPSE_RATIO * reference and reference - chosen > COLLAPSE_NATS


def idle(share: float) -> bool:
    """Whether the follower moves so small a share of the pairs that training is nearly plain DPO."""
    return share < IDLE_SHARE


def saturated(share: float) -> bool:
    """Whether the follower moves so large a share of the pairs that little data is left to learn from."""
    return share > SATURATED_SHARE
