"""Links and gaps that the tests of the follower share."""

import numpy as np
from scipy.optimize import linprog

from sgpo.robust import ConvexLink, make_link, tangent_link

SQUARE = ConvexLink(
    "square",
    "margin",
    decreasing=False,
    value_fn=lambda u: (u - 0.3) ** 2,
    slope_fn=lambda u: 2.0 * (u - 0.3),
)
WINDOW = (-6.0, 6.0)

MONOTONE = {
    "logistic": {"window": WINDOW},
    "logistic, equispaced tangents": {"window": WINDOW, "tangents": 5},
    "logistic, quantile tangents": {"window": WINDOW, "tangents": 4, "knots": "quantiles"},
    "hinge": {"window": WINDOW, "link": "hinge"},
    "exponential": {"window": WINDOW, "link": "exponential"},
    "exponential tangents": {"window": WINDOW, "link": "exponential", "tangents": 3},
    "-log p": {"space": "probability", "window": (0.01, 1.0), "clip": True},
    "-log p, the paper's tangents": {"space": "probability", "tangents": 6},
    "-log p, equispaced tangents": {
        "space": "probability",
        "window": (0.05, 0.95),
        "tangents": 4,
        "knots": "equispaced",
        "clip": True,
    },
}
TWO_SIDED = {
    "square": {"window": WINDOW, "link": SQUARE},
    "square tangents": {"window": (-6.0, 5.0), "link": tangent_link(SQUARE, np.linspace(-6, 5, 7)), "clip": True},
}
EVERY = MONOTONE | TWO_SIDED


def normal_gaps(count=200, seed=0):
    return np.random.default_rng(seed).normal(size=count)


def transport_program(worst):
    """The robust value by a linear program over transport plans: every gap to a grid of places, with the link as it is.

    Knows nothing of the follower's reasoning, and allows mass anywhere on the grid.
    """
    (a, b), u = worst.window, worst.points
    places = np.unique(np.concatenate([np.linspace(a, b, 9), u]))
    value = np.broadcast_to(worst.link.value(places), (len(u), len(places)))
    cost = abs(u[:, None] - places)
    rows = np.kron(np.eye(len(u)), np.ones(len(places)))
    mass = np.full(len(u), 1 / len(u)) if worst.weights is None else worst.weights
    solved = linprog(
        -value.ravel(), A_ub=cost.reshape(1, -1), b_ub=[worst.radius], A_eq=rows, b_eq=mass, method="highs"
    )
    assert solved.status == 0, solved.message
    return -solved.fun


PAPER_LINK = make_link("probability", 6)
