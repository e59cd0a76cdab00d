"""The robust certificate holds on every sample, is attained where it should be, and its slack covers the population."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit, log_expit
from scipy.stats import norm

from sgpo.errors import InputError
from sgpo.robust.exact import worst_case
from sgpo.stats.certificate import certify_policy

GAPS = st.lists(st.floats(-30, 30), min_size=1, max_size=40)


@given(human=GAPS, own=GAPS, space=st.sampled_from(["margin", "probability"]))
def test_the_bound_holds_for_any_two_samples(human, own, space):
    certificate = certify_policy(human, own, space=space)
    truth = log_expit(np.array(human)).mean()
    assert certificate.human == pytest.approx(truth)
    assert certificate.bound <= truth + 1e-9 * max(1.0, abs(truth))
    assert certificate.bound <= certificate.own + 1e-9 * max(1.0, abs(certificate.own))


@given(gaps=GAPS, space=st.sampled_from(["margin", "probability"]))
def test_without_a_shift_the_bound_is_the_likelihood_itself(gaps, space):
    certificate = certify_policy(gaps, gaps[::-1], space=space)
    assert certificate.radius == pytest.approx(0, abs=1e-12)
    assert certificate.bound == pytest.approx(log_expit(np.array(gaps)).mean(), abs=1e-6)


@pytest.mark.parametrize("space", ["margin", "probability"])
def test_the_bound_is_attained_where_the_human_law_is_the_worst_one(space):
    own = np.random.default_rng(0).normal(1.0, 0.7, size=100)
    human = own.copy()
    human[np.argsort(own)[:30]] = own.min()
    certificate = certify_policy(human, own, space=space)
    assert certificate.bound == pytest.approx(certificate.human, abs=1e-9)
    assert certificate.looseness == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("space", ["margin", "probability"])
def test_any_smaller_radius_would_certify_something_false(space):
    own = np.random.default_rng(0).normal(1.0, 0.7, size=100)
    human = own.copy()
    human[np.argsort(own)[:30]] = own.min()
    certificate = certify_policy(human, own, space=space)
    false = -worst_case(own, 0.98 * certificate.radius, space=space, window=certificate.window).value
    assert false > certificate.human + 1e-4


def test_the_radius_is_the_shift_of_a_law_that_was_shifted():
    own = np.random.default_rng(0).normal(size=200)
    assert certify_policy(own - 0.4, own, space="margin").radius == pytest.approx(0.4)


def test_in_worlds_with_a_known_law_the_population_bound_holds_in_95_percent_and_the_bound_is_worth_having():
    rng = np.random.default_rng(0)
    truth = quad(lambda gap: log_expit(gap) * norm.pdf(gap, 0.6, 0.8), -8, 8)[0]
    certificates = [certify_policy(rng.normal(0.6, 0.8, size=200), rng.normal(1.0, 0.8, size=500)) for _ in range(400)]
    assert np.mean([certificate.population_bound <= truth for certificate in certificates]) >= 0.95
    # Better than knowing the window alone, and a real discount on the policy's own opinion.
    assert all(certificate.bound > np.log(certificate.window[0]) for certificate in certificates)
    assert np.mean([certificate.own > truth for certificate in certificates]) > 0.99


def test_the_slack_alone_covers_the_sampling_error_of_the_mean():
    rng = np.random.default_rng(1)
    truth = quad(lambda gap: log_expit(gap) * norm.pdf(gap, 0.6, 0.8), -8, 8)[0]
    held = []
    for _ in range(1000):
        gaps = rng.normal(0.6, 0.8, size=200)
        certificate = certify_policy(gaps, gaps)
        held.append(certificate.population_bound <= truth)
    assert 0.93 <= np.mean(held) <= 0.97


def test_a_wider_window_only_lowers_the_bound():
    rng = np.random.default_rng(0)
    human, own = rng.normal(size=100), rng.normal(1, 1, size=100)
    tight = certify_policy(human, own)
    wide = certify_policy(human, own, window=(0.5 * tight.window[0], 1.0))
    assert wide.bound < tight.bound
    assert wide.radius == tight.radius


def test_equal_gaps_are_certified_as_they_are():
    for space in ("margin", "probability"):
        assert certify_policy([0.5, 0.5], [0.5], space=space).bound == pytest.approx(np.log(expit(0.5)))


@pytest.mark.parametrize(
    ("human", "own", "window", "message"),
    [
        ([], [1.0], None, "human_gaps has shape"),
        ([1.0], [np.nan], None, r"own_gaps\[0\] is nan"),
        ([1.0, -900.0], [1.0], None, r"human_gaps\[1\] is -900.0, whose loss is infinite"),
        ([1.0, -3.0], [1.0], (0.2, 1.0), r"human_gaps\[1\] is 0\.0474.* outside the window \[0\.2, 1\.0\]"),
        ([1.0], [1.0, -3.0], (0.2, 1.0), r"own_gaps\[1\] is 0\.0474.* allowed: .*a window that holds both laws"),
        ([1.0], [1.0, -3.0], (0.2, 1.0), r"own_gaps\[1\]"),
        ([1.0], [1.0], (0.0, 1.0), "window is"),
    ],
)
def test_what_cannot_be_certified_is_refused(human, own, window, message):
    with pytest.raises(InputError, match=message):
        certify_policy(human, own, window=window)
