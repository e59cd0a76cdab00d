"""Win rates of AlpacaEval: alpaca_eval's own numbers, an independent optimiser, and standard errors that hold."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import sem

from evaluate.alpaca_files import annotation_rows, write_annotations, write_gamed
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import read_annotations
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.length_control import length_controlled_win_rate, raw_win_rate

# What alpaca_eval and scikit-learn answered; benchmarks/alpaca_eval_agreement.py asks them again.
PEER = json.loads(Path(__file__).with_name("alpaca_eval_values.json").read_text())["values"]


@pytest.fixture(scope="module")
def gamed(tmp_path_factory):
    return read_gamed(write_gamed(tmp_path_factory.mktemp("gamed") / "df_gamed.csv"))


@pytest.fixture
def annotations(request, tmp_path):
    case, seed = request.param.split("/")
    return read_annotations(write_annotations(tmp_path / "a.json", annotation_rows(case, seed=int(seed))))


def control(read, **options):
    return length_controlled_win_rate(read.preferences, read.lengths, read.baseline_lengths, **options)


@pytest.mark.parametrize(("annotations", "case"), [(case, case) for case in PEER], indirect=["annotations"])
def test_the_raw_win_rate_is_alpaca_evals(annotations, case):
    raw, peer = raw_win_rate(annotations.preferences), PEER[case]["minimal"]
    assert (raw.wins, raw.losses, raw.draws) == (peer["n_wins"], peer["n_wins_base"], peer["n_draws"])
    assert raw.wins + raw.losses + raw.draws == peer["n_total"] == 805 - raw.unjudged
    assert raw.win_rate == pytest.approx(peer["win_rate"])
    assert raw.standard_error == pytest.approx(peer["standard_error"])
    assert raw.discrete_win_rate == pytest.approx(peer["discrete_win_rate"])


@pytest.mark.parametrize("model", ["minimal", "full"])
@pytest.mark.parametrize(("annotations", "case"), [(case, case) for case in PEER], indirect=["annotations"])
def test_the_length_controlled_win_rate_is_alpaca_evals(annotations, case, model, gamed):
    controlled, peer = control(annotations, gamed=gamed if model == "full" else None), PEER[case][model]
    assert controlled.model == model
    # In points: the same solver on the same rows.
    assert controlled.win_rate == pytest.approx(peer["length_controlled_winrate"], abs=1e-6)
    assert controlled.spread == pytest.approx(peer["lc_standard_error"], abs=1e-6)


def test_the_difficulty_follows_the_instruction_not_the_row(gamed):
    rng = np.random.default_rng(0)
    places = rng.permutation(805)
    shares = expit(-1.5 * gamed.difficulty[places])
    lengths, baseline = rng.integers(1, 900, size=(2, 805))
    right = length_controlled_win_rate(shares, lengths, baseline, gamed=gamed, places=places)
    wrong = length_controlled_win_rate(shares, lengths, baseline, gamed=gamed)
    assert right.coefficients["difficulty"] < -1.0
    assert abs(wrong.coefficients["difficulty"]) < 0.2


def simulate(rng, count, *, effect, taste):
    lengths, baseline = (np.exp(rng.normal(mean, 0.5, size=count)) for mean in (7.2, 6.9))
    delta = baseline - lengths
    logit = effect - taste * np.tanh(delta / delta.std(ddof=1))
    return (rng.random(count) < expit(logit)).astype(float), lengths, baseline


def test_a_judge_that_likes_length_alone_gives_half_when_length_is_taken_out():
    shares, lengths, baseline = simulate(np.random.default_rng(0), 20_000, effect=0.0, taste=1.5)
    assert raw_win_rate(shares).win_rate > 55
    assert length_controlled_win_rate(shares, lengths, baseline).win_rate == pytest.approx(50, abs=1.5)


def test_the_standard_error_is_the_spread_over_new_instructions():
    rng = np.random.default_rng(0)
    results = [
        length_controlled_win_rate(*simulate(rng, 300, effect=-0.8, taste=1.0)) for _ in range(150)
    ]  # fmt: skip
    rates = np.array([result.win_rate for result in results])
    claimed = np.mean([result.standard_error for result in results])
    # 150 rates know their own spread to 6%.
    assert claimed == pytest.approx(rates.std(ddof=1), rel=0.15)
    assert claimed > np.mean([result.spread for result in results]) + 1


def test_without_an_effect_of_length_the_standard_error_is_the_raw_one():
    rng = np.random.default_rng(0)
    shares = rng.beta(0.5, 0.7, size=2000)
    controlled = length_controlled_win_rate(shares, rng.integers(1, 900, size=2000), rng.integers(1, 900, size=2000))
    assert controlled.standard_error == pytest.approx(100 * sem(shares), rel=0.03)


def design_of(shares, lengths, baseline):
    delta = np.asarray(baseline, dtype=float) - lengths
    return np.stack([np.tanh(delta / delta.std(ddof=1)), np.ones(len(shares))], axis=1)


@pytest.mark.parametrize("taste", [0.0, 0.4, 2.0])
def test_the_coefficients_are_an_independent_optimisers_at_the_selected_penalty(taste):
    shares, lengths, baseline = simulate(np.random.default_rng(3), 300, effect=-0.5, taste=taste)
    controlled = length_controlled_win_rate(shares, lengths, baseline)
    x = design_of(shares, lengths, baseline)

    def objective(halves):
        w = halves[:2] - halves[2:]
        z = x @ w
        return halves.sum() + controlled.strength * (np.logaddexp(0, z) - shares * z).sum()

    peer = minimize(objective, np.full(4, 0.1), bounds=[(0, None)] * 4, tol=1e-12)
    coefficients = np.array([controlled.coefficients["length"], controlled.coefficients["policy"]])
    # liblinear stops at a tolerance of 1e-4.
    assert coefficients == pytest.approx(peer.x[:2] - peer.x[2:], abs=5e-3)
    reached = objective(np.concatenate([coefficients.clip(0), (-coefficients).clip(0)]))
    assert reached == pytest.approx(peer.fun, rel=1e-4)


def test_verdicts_of_chance_select_the_strongest_penalty_and_give_half():
    # A half everywhere is predicted best without any coefficient, whatever the penalty: the strongest comes first.
    lengths, baseline = np.random.default_rng(0).integers(1, 900, size=(2, 50))
    controlled = length_controlled_win_rate(np.full(50, 0.5), lengths, baseline)
    assert controlled.strength == pytest.approx(1e-4)
    assert controlled.coefficients == {"length": 0.0, "policy": 0.0}
    assert controlled.win_rate == 50.0


def test_verdicts_that_length_separates_give_finite_coefficients():
    lengths = np.arange(1, 41)
    controlled = length_controlled_win_rate((lengths > 20).astype(float), lengths, np.full(40, 20))
    assert np.isfinite(list(controlled.coefficients.values())).all()
    assert controlled.coefficients["length"] < -5


def test_scikit_learns_settings_do_not_matter():
    arrays = simulate(np.random.default_rng(0), 60, effect=0.0, taste=1.5)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = length_controlled_win_rate(*arrays)
    assert routed == length_controlled_win_rate(*arrays)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"pip install 'sgpo\[alpaca\]'"):
        length_controlled_win_rate([0, 1] * 10, np.arange(20), np.arange(20)[::-1])


def test_a_judgment_that_could_not_be_read_counts_in_nothing():
    raw = raw_win_rate([1.0, np.nan, 0.5, 0.2, np.nan])
    assert (raw.wins, raw.losses, raw.draws, raw.unjudged) == (1, 1, 1, 2)
    assert raw.win_rate == pytest.approx(100 * 1.7 / 3)
    assert np.isnan(raw_win_rate([1.0]).standard_error)


def test_answers_of_the_baselines_length_leave_the_raw_win_rate():
    shares = np.random.default_rng(0).beta(2, 3, size=400)
    controlled = length_controlled_win_rate(shares, np.full(400, 9), np.full(400, 9))
    assert controlled.win_rate == pytest.approx(100 * shares.mean(), abs=0.5)


@pytest.mark.parametrize(
    ("preferences", "lengths", "baseline", "options", "message"),
    [
        ([], [], [], {}, "preferences has shape"),
        ([0.5, 1.5], [1, 2], [2, 1], {}, "preferences row 1 is 1.5"),
        ([0.5] * 6, [1] * 5, [1] * 6, {}, r"lengths has 5 rows; allowed: 6"),
        ([0.5] * 6, [1] * 6, [1, 2, 3, 4, 5, -1], {}, "baseline_lengths row 5 is -1"),
        (
            [0.5, np.nan, 1, 0, 1],
            [1, 2, 3, 4, 5],
            [1] * 5,
            {},
            "2.5 wins and 1.5 losses; allowed: 5 of each, or more",
        ),
        (
            [0.5] * 20,
            [4] * 20,
            [1] * 20,
            {},
            "lengths differ from baseline_lengths by 3 in every row, which cannot be controlled for",
        ),
        ([0, 1] * 40, np.arange(80) + 9000, np.arange(80) % 7, {}, "standard error of inf points; allowed: at most 25"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"full": True}, "6 rows and the difficulty file 805"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"places": [0, 1, 2, 3, 4, 805]}, "places row 5 is 805"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"places": [0.0] * 6}, "allowed: .6,. integers"),
    ],
)
def test_bad_input_is_refused(preferences, lengths, baseline, options, message, gamed):
    options = {"gamed": gamed, "places": options.get("places")} if options else {}
    with pytest.raises(InputError, match=message):
        length_controlled_win_rate(preferences, lengths, baseline, **options)


def test_no_judgment_at_all_is_refused():
    with pytest.raises(InputError, match="holds no judgment"):
        raw_win_rate([np.nan, np.nan])
