"""The evaluation runner: what a reward evaluation reports, against the same numbers computed by hand."""

import json

import numpy as np
import pytest

from sgpo.config import EvaluateConfig, ModelConfig
from sgpo.errors import InputError
from sgpo.evaluate.prompt_files import read_answers_to, read_prompts
from sgpo.evaluate.runner import Job, Subject, check_inputs, run_evaluation
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.preferences.source import load_pairs
from sgpo.store.progress import Reporter
from sgpo.store.records import Headline, Sample
from tiny_model import build_tiny_model, generate_responses

WORDS = ["bridge", "river", "town", "cat", "roof", "house", "stone", "sky", "poem", "night"]
# No value where the prompt is about the town.
REWARD = """
def reward(prompts, responses):
    nan = float("nan")
    return [
        [nan if "town" in prompt[-1]["content"] else float(len(text)) for text in row]
        for prompt, row in zip(prompts, responses)
    ]
"""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [str(build_tiny_model(folder / str(seed), seed=seed)) for seed in (0, 1)]


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "reward.py").write_text(REWARD)
    return EvaluateConfig(
        kind="reward",
        prompts=write(tmp_path / "prompts.jsonl", [{"prompt": f"Where is the {word}?"} for word in WORDS]),
        function=f"{tmp_path / 'reward.py'}:reward",
        temperature=1.0,
        max_new_tokens=12,
    )


def subject(model, reference, **options):
    options = {"seed": 3, "reference": reference and ModelConfig(path=reference), **options}
    return Subject(ModelConfig(path=model), "policy", **options)


def run(settings, subject, **files):
    return run_evaluation(Job(settings, subject, Reporter(), **files))


def test_kl_is_the_mean_log_ratio_of_the_policys_own_answers(settings, models):
    policy, reference = models
    result = run(settings, subject(policy, reference))
    prompts = read_prompts(settings.prompts)
    answers = generate_responses(load_policy(policy), prompts, n=1, temperature=1.0, max_new_tokens=12, seed=3)
    texts = [row[0].text for row in answers]
    logps = [score_responses(load_policy(path), prompts, texts).logps for path in models]
    assert result["kl"] == pytest.approx((logps[0] - logps[1]).mean(), rel=1e-6)
    assert result["kl"] > 0
    assert result["tokens"] == np.mean([row[0].n_tokens for row in answers])


def test_kl_to_itself_is_zero_and_without_a_reference_unknown(settings, models, tmp_path):
    answers = tmp_path / "answers.json"
    generated = run(settings, subject(models[0], models[0]), answers=answers)
    assert (generated["kl"], generated["tokens"] > 0) == (0.0, True)
    against = settings.model_copy(update={"baseline": str(answers)})
    assert run(against, subject(models[0], None))["kl"] is None
    # The file has the tokens of its answers, and not their log-probabilities.
    result = run(settings, subject(str(answers), models[1]))
    assert (result["kl"], result["tokens"], result["cut"]) == (None, generated["tokens"], generated["cut"])
    # One row that lacks them, as in other files and older ones, leaves them unknown.
    rows = json.loads(answers.read_text())
    rows[3] = {key: rows[3][key] for key in ("prompt", "response", "generator")}
    answers.write_text(json.dumps(rows))
    result = run(settings, subject(str(answers), models[1]))
    assert (result["kl"], result["tokens"], result["cut"]) == (None, None, None)
    answers.write_text(json.dumps([{**rows[0], "n_tokens": "12"}, *rows[1:]]))
    with pytest.raises(InputError, match="row 0: 'n_tokens' is '12'; allowed: an integer"):
        run(settings, subject(str(answers), models[1]))


def test_answers_that_fill_the_context_are_scored(settings, tmp_path):
    # Prompts of 17 and 18 tokens; the closing tokens that scoring adds would exceed the context.
    small = str(build_tiny_model(tmp_path / "small", seed=0, context=48))
    prompts = [{"prompt": "x"}, {"prompt": "xx"}]
    full = settings.model_copy(update={"prompts": write(tmp_path / "x.jsonl", prompts), "max_new_tokens": 30})
    result = run(full, subject(small, small))
    assert (result["kl"], result["cut"] > 0) == (0.0, True)


def test_agreement_is_the_share_of_own_pairs_in_the_rewards_order_ties_half(settings, models, tmp_path):
    pairs = [
        {"prompt": "a cat", "chosen": "longer", "rejected": "short"},
        {"prompt": "a roof", "chosen": "short", "rejected": "longer"},
        {"prompt": "a sky", "chosen": "four", "rejected": "five"},
        {"prompt": "a poem", "chosen": "longest", "rejected": "short"},
        {"prompt": "a town", "chosen": "s", "rejected": "unknown"},
    ]
    own = load_pairs(write(tmp_path / "own.jsonl", pairs))
    assert run(settings, subject(*models, own_pairs=own))["agreement"] == (1 + 0 + 0.5 + 1) / 4
    assert run(settings, subject(*models, own_pairs=own.select([4])))["agreement"] is None
    assert run(settings, subject(*models))["agreement"] is None


def test_samples_are_the_first_answers_that_have_rewards(settings, models, tmp_path):
    answers, samples = tmp_path / "answers.json", tmp_path / "samples.jsonl"
    result = run(settings, subject(*models), answers=answers, samples=samples)
    rows = [Sample(**json.loads(line)) for line in samples.read_text().splitlines()]
    prompts = read_prompts(settings.prompts)
    texts = read_answers_to(answers, prompts).texts
    kept = [row for row, word in enumerate(WORDS) if word != "town"][:8]
    assert [row.prompt for row in rows] == [f"Where is the {WORDS[row]}?" for row in kept]
    assert [row.response for row in rows] == [texts[row] for row in kept]
    assert [(row.reward, row.baseline_reward) for row in rows] == [tuple(result["rewards"][row]) for row in kept]
    assert [row.baseline_reward for row in rows] == [len(row.baseline) for row in rows]
    assert (result["unrewarded"], result["count"], result["prompts"]) == (1, 9, 10)


def test_parts_of_the_reward_are_means_over_rewarded_prompts_where_both_answers_have_them(settings, models, tmp_path):
    """The part `late` exists for answers of an even length alone, and `never` for none."""
    (tmp_path / "parted.py").write_text(
        REWARD + "def parted(prompts, responses):\n"
        "    late = [[len(text) if len(text) % 2 == 0 else None for text in row] for row in responses]\n"
        "    never = [[None] * len(row) for row in responses]\n"
        "    words = [[len(text.split()) for text in row] for row in responses]\n"
        "    return {'reward': reward(prompts, responses), 'words': words, 'late': late, 'never': never}\n"
    )
    whole = settings.model_copy(update={"function": f"{tmp_path / 'parted.py'}:parted"})
    answers, plain = tmp_path / "answers.json", run(settings, subject(*models))
    result = run(whole, subject(*models), answers=answers)
    prompts = read_prompts(settings.prompts)
    own = read_answers_to(answers, prompts).texts
    run(settings, subject(models[1], models[1]), answers=answers)
    others = read_answers_to(answers, prompts).texts
    pairs = [pair for word, *pair in zip(WORDS, own, others, strict=True) if word != "town"]
    even = [pair for pair in pairs if not any(len(text) % 2 for text in pair)]
    assert even and len(even) < len(pairs)
    assert result["parts"] == {
        "words": [_mean(pairs, 0, str.split), _mean(pairs, 1, str.split)],
        "late": [_mean(even, 0, str), _mean(even, 1, str)],
    }
    assert plain["parts"] == {} and plain["value"] == result["value"]
    assert Headline(kind="reward", parts=result["parts"]).parts["late"][0] == _mean(even, 0, str)


def _mean(pairs, side, split):
    return pytest.approx(np.mean([len(split(pair[side])) for pair in pairs]))


def test_the_headline_of_a_reward_evaluation_is_a_record(settings, models):
    result = run(settings, subject(*models))
    headline = Headline(**{key: result[key] for key in Headline.model_fields if key != "gain"})
    assert (headline.kind, headline.value, headline.agreement) == ("reward", result["win_rate"], None)
    assert (headline.kl, headline.tokens) == (result["kl"], result["tokens"])


def test_a_nucleus_is_sampled_as_the_settings_ask(settings, models, tmp_path):
    answers = tmp_path / "answers.json"
    run(settings.model_copy(update={"top_p": 0.1}), subject(*models), answers=answers)
    prompts = read_prompts(settings.prompts)
    expected = generate_responses(
        load_policy(models[0]), prompts, n=1, temperature=1.0, top_p=0.1, max_new_tokens=12, seed=3
    )
    assert read_answers_to(answers, prompts).texts == [row[0].text for row in expected]


def test_without_baseline_and_reference_there_is_nothing_to_compare_with(settings, models):
    with pytest.raises(InputError, match="baseline is missing; allowed: a file of answers, or a policy"):
        run(settings, subject(models[0], None))


def test_inputs_are_checked_before_any_model_runs(settings, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    wrong = {
        "allowed: one named 'topic'": {"kind": "preferences", "pairs": pairs, "source_column": "topic"},
        "split is 'test', but": {"kind": "preferences", "pairs": pairs, "split": "test"},
        "nowhere.txt cannot be read": {
            "kind": "judge",
            "prompts": settings.prompts,
            "model": "j",
            "servers": ["http://x/v1"],
            "template": "nowhere.txt",
        },
        "baseline './nowhere' does not exist": {**settings.model_dump(), "baseline": "./nowhere"},
    }
    for message, content in wrong.items():
        with pytest.raises(InputError) as caught:
            check_inputs(EvaluateConfig(**content))
        assert message in str(caught.value)


def test_only_judge_and_reward_take_a_file_of_answers_as_the_policy(settings, models, tmp_path):
    asked = [{"instruction": "Where?"}]
    questions = [{"question_id": 1, "category": "math", "turns": ["Where?"]}]
    kinds = {
        "alpaca": {"instructions": write(tmp_path / "set.jsonl", asked)},
        "mt_bench": {"questions": write(tmp_path / "question.jsonl", questions)},
        "preferences": {"pairs": write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])},
    }
    answers = write(tmp_path / "answers.jsonl", [{"instruction": "Where?", "output": "There."}])
    for kind, keys in kinds.items():
        written = tmp_path / f"{kind}.json"
        with pytest.raises(InputError, match=rf"policy is .*a file of answers; allowed with '{kind}': a folder"):
            run(EvaluateConfig(kind=kind, **keys), subject(answers, models[0]), answers=written)
        assert not written.exists()
