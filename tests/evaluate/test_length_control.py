"""Win rates of AlpacaEval: alpaca_eval's own numbers, an independent optimiser, and standard errors that hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import sem

from evaluate.alpaca_files import annotation_rows, write_annotations, write_gamed
from sgpo.errors import InputError
from sgpo.evaluate.alpaca import read_annotations
from sgpo.evaluate.gamed import read_gamed
from sgpo.evaluate.length_control import length_controlled_win_rate, raw_win_rate
from sgpo.evaluate.sparse_logistic import cross_validated_strength, fit

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
    # In points; the two solvers take the same steps, so that only rounding is left.
    assert controlled.win_rate == pytest.approx(peer["length_controlled_winrate"], abs=1e-4)
    assert controlled.spread == pytest.approx(peer["lc_standard_error"], abs=1e-4)


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


@pytest.mark.parametrize("strength", [0.02, 0.36, 21.5, 1e4])
@pytest.mark.parametrize("columns", [2, 3])
def test_the_fit_is_the_optimisers_to_liblinears_tolerance(columns, strength):
    rng = np.random.default_rng(columns)
    x, weights = rng.normal(size=(300, columns)), rng.choice([0.1, 1.0], size=300)
    y = expit(x @ np.array([1.0, -0.4, 0.0])[:columns] + rng.normal(size=300))

    def objective(halves):
        w = halves[:columns] - halves[columns:]
        z = x @ w
        return halves.sum() + strength * weights @ (np.logaddexp(0, z) - y * z)

    peer = minimize(objective, np.full(2 * columns, 0.1), bounds=[(0, None)] * 2 * columns, tol=1e-12)
    w = fit(x, y, weights, strength)
    assert w == pytest.approx(peer.x[:columns] - peer.x[columns:], abs=2e-3)
    reached = objective(np.concatenate([w.clip(0), (-w).clip(0)]))
    assert reached == pytest.approx(peer.fun, rel=1e-5)


def test_a_strong_penalty_sets_coefficients_to_zero_exactly():
    x = np.random.default_rng(0).normal(size=(100, 3))
    assert fit(x, expit(x[:, 0]), np.ones(100), 1e-4).tolist() == [0.0, 0.0, 0.0]


def test_labels_that_columns_separate_end_in_a_finite_fit():
    x = np.linspace(-1, 1, 40)[:, None] * [[1.0, 0.5]]
    assert np.isfinite(fit(x, (x[:, 0] > 0).astype(float), np.ones(40), 1e4)).all()


def test_of_equal_strengths_the_smallest_is_chosen():
    # A half everywhere is predicted best by no coefficient at all, whatever the strength.
    x = np.random.default_rng(0).normal(size=(50, 2))
    assert cross_validated_strength(x, np.full(50, 0.5), np.ones(50), np.array([0.1, 1.0, 10.0]), 5) == 0.1


def test_a_judgement_that_could_not_be_read_counts_in_nothing():
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
        ([], [], [], {}, "preferences has the shape"),
        ([0.5, 1.5], [1, 2], [2, 1], {}, "preferences row 1 is 1.5"),
        ([0.5] * 6, [1] * 5, [1] * 6, {}, r"lengths has the shape \(5,\)"),
        ([0.5] * 6, [1] * 6, [1, 2, 3, 4, 5, -1], {}, "baseline_lengths row 5 is -1"),
        ([0.5, np.nan, 1, 0, 1], [1, 2, 3, 4, 5], [1] * 5, {}, "4 judgements; allowed: at least 5"),
        ([0.5] * 6, [4] * 6, [1] * 6, {}, "lengths differ from baseline_lengths by 3 in every row"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"full": True}, "6 rows and the difficulty file 805"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"places": [0, 1, 2, 3, 4, 805]}, "places row 5 is 805"),
        ([0.5] * 6, [1, 2, 3, 4, 5, 6], [1] * 6, {"places": [0.0] * 6}, "allowed: .6,. integers"),
    ],
)
def test_bad_input_is_refused(preferences, lengths, baseline, options, message, gamed):
    options = {"gamed": gamed, "places": options.get("places")} if options else {}
    with pytest.raises(InputError, match=message):
        length_controlled_win_rate(preferences, lengths, baseline, **options)


def test_no_judgement_at_all_is_refused():
    with pytest.raises(InputError, match="holds no judgement"):
        raw_win_rate([np.nan, np.nan])
