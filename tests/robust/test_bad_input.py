"""Bad input ends in one message that names the argument, its value and what is allowed."""

import numpy as np
import pytest
import torch

from sgpo.errors import InputError
from sgpo.robust import solve_worst_case, worst_case

GAPS = np.array([0.5, -0.5, 1.5])
MARGIN = {"window": (-2.0, 2.0)}
CASES = [
    ([0.0, np.nan], 0.1, MARGIN, r"gaps\[1\] is nan; allowed: finite"),
    ([np.inf, 0.0], 0.1, MARGIN, r"gaps\[0\] is inf; allowed: finite"),
    ([0.0, -np.inf], 0.1, MARGIN, r"gaps\[1\] is -inf; allowed: finite"),
    ([], 0.1, MARGIN, r"gaps has shape \(0,\); allowed: one axis"),
    ([[0.0, 1.0]], 0.1, MARGIN, r"gaps has shape \(1, 2\); allowed: one axis"),
    (1.0, 0.1, MARGIN, r"gaps has shape \(\); allowed: one axis"),
    (["a"], 0.1, MARGIN, r"gaps is a list; allowed"),
    (GAPS, -0.1, MARGIN, r"radius is -0.1; allowed: a finite number >= 0"),
    (GAPS, np.nan, MARGIN, r"radius is nan; allowed"),
    (GAPS, np.inf, MARGIN, r"radius is inf; allowed"),
    (GAPS, "much", MARGIN, r"radius is 'much'; allowed"),
    (GAPS, 0.1, {}, r"window is None in margin space; allowed: \[a, b\]"),
    (GAPS, 0.1, {"window": (2.0, -2.0)}, r"window is \(2.0, -2.0\); allowed: \[a, b\] with a < b"),
    (GAPS, 0.1, {"window": (1.0, 1.0)}, r"window is \(1.0, 1.0\); allowed"),
    (GAPS, 0.1, {"window": (-np.inf, 2.0)}, r"window is \(-inf, 2.0\); allowed"),
    (GAPS, 0.1, {"window": (0.0, 1.0, 2.0)}, r"window is \(0.0, 1.0, 2.0\); allowed: two numbers"),
    (GAPS, 0.1, {"window": (0.0, 2.0)}, r"gaps\[1\] is -0.5 .* outside the window \[0.0, 2.0\]; allowed.*clip=True"),
    (GAPS, 0.1, {"window": (-1.0, 1.0)}, r"gaps\[2\] is 1.5 .* outside the window"),
    (GAPS, 0.1, {"space": "probability", "window": (-1, 1), "tangents": 6}, r"window is .* within \[0, 1\]"),
    (GAPS, 0.1, {"space": "probability"}, r"-log p is inf at 0.0; allowed: .*tangents >= 1"),
    (GAPS, 0.1, {"window": (-1e3, 1e3), "link": "exponential"}, r"exponential is inf at -1000.0; allowed"),
    (GAPS, 0.1, {**MARGIN, "weights": [1.0, -1.0, 1.0]}, r"weights\[1\] is -1.0; allowed: numbers >= 0"),
    (GAPS, 0.1, {**MARGIN, "weights": [0.0, 0.0, 0.0]}, r"weights sum to 0; allowed"),
    (GAPS, 0.1, {**MARGIN, "weights": [1.0, 1.0]}, r"weights has shape \(2,\); allowed: \(3,\)"),
    (GAPS, 0.1, {**MARGIN, "weights": [1.0, np.nan, 1.0]}, r"weights\[1\] is nan; allowed"),
    (GAPS, 0.1, {**MARGIN, "weights": [1.0, np.inf, 1.0]}, r"weights\[1\] is inf; allowed"),
    (GAPS, 0.1, {**MARGIN, "link": "ramp"}, r"link is 'ramp' .*allowed: 'logistic', 'hinge', 'exponential'"),
    (GAPS, 0.1, {**MARGIN, "link": 3}, r"link is 3; allowed: a Link"),
    (GAPS, 0.1, {**MARGIN, "space": "logit"}, r"space is 'logit'; allowed"),
    (GAPS, 0.1, {**MARGIN, "tangents": 0}, r"tangents is 0; allowed: an integer >= 1"),
]


@pytest.mark.parametrize(("gaps", "radius", "options", "message"), CASES)
@pytest.mark.parametrize("solver", ["exact", "grouped"])
def test_bad_input_is_refused_by_name(gaps, radius, options, message, solver):
    grouped = {"group_size": 2} if solver == "grouped" else {}
    with pytest.raises(InputError, match=message):
        solve_worst_case(gaps, radius, **grouped, **options)


@pytest.mark.parametrize(("gaps", "radius", "options", "message"), [case for case in CASES if case[0] is GAPS])
def test_tensors_are_refused_with_the_same_words(gaps, radius, options, message):
    with pytest.raises(InputError, match=message):
        worst_case(torch.tensor(gaps), radius, **options)


def test_integer_tensors_are_refused():
    with pytest.raises(InputError, match=r"gaps has dtype torch.int64; allowed: a float dtype"):
        worst_case(torch.tensor([1, 2]), 0.1, window=(0, 3))


def test_clipping_is_by_choice_and_moves_to_the_nearest_end():
    worst = worst_case(np.array([-9.0, 0.0, 9.0]), 0.0, window=(-1, 2), clip=True)
    assert worst.points.tolist() == [-1.0, 0.0, 2.0]


def test_a_link_and_another_space_do_not_mix():
    from sgpo.robust import make_link

    with pytest.raises(InputError, match="space is 'margin' with a link on 'probability'"):
        worst_case(GAPS, 0.1, link=make_link("probability", 6), space="margin")
    with pytest.raises(InputError, match="tangents or knots with a Link"):
        worst_case(GAPS, 0.1, link=make_link("probability", 6), tangents=6)
