"""`evaluate:` in a recipe: what is measured after each round, on the micro run."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import yaml
from datasets import load_from_disk

from evaluate.ifeval_kwargs import row
from faulty_server import Reply, completion, faulty
from integration.conftest import PAIRS, WORDS, write_jsonl
from integration.whole_runs import planned_and_recorded
from sgpo.cli import main
from sgpo.evaluate.prompt_files import read_answers_to, read_prompts
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.preferences.source import load_pairs
from sgpo.stats.certificate import certify_policy
from tiny_model import generate_responses

REWARD = "def reward(prompts, responses):\n    return [[float(len(text)) for text in row] for row in responses]\n"


def evaluating(recipe, entries, **changes):
    content = yaml.safe_load(recipe.read_text()) | {"rounds": 1, "evaluate": entries} | changes
    recipe.write_text(yaml.safe_dump(content))
    return recipe.parent / "run"


def run(recipe, code=0):
    assert main(["run", "--config", str(recipe), "--quiet"]) == code


def metrics_of(folder, number):
    return json.loads((folder / f"round-{number}/metrics.json").read_text())["evaluations"]


def result_of(folder, number, name):
    return json.loads((folder / f"round-{number}/evaluations/{name}/result.json").read_text())


def gaps_of(policy, reference, pairs, beta=0.1):
    prompts = pairs["prompt"][:]
    totals = []
    for side in ("chosen", "rejected"):
        texts = [row[0]["content"] for row in pairs[side]]
        own, base = (score_responses(load_policy(path), prompts, texts).logps for path in (policy, reference))
        totals.append(beta * (own - base))
    return totals[0] - totals[1]


@pytest.fixture
def files(tmp_path):
    """Prompts, pairs, instructions and questions of an evaluation, and a reward."""
    (tmp_path / "reward.py").write_text(REWARD)
    instructions = tmp_path / "set.json"
    instructions.write_text(json.dumps([{"instruction": f"Describe the {word}."} for word in WORDS[:3]]))
    questions = [{"question_id": 1, "category": "math", "turns": ["One and one?", "And one?"]}]
    return {
        "prompts": write_jsonl(tmp_path / "ask.jsonl", [{"prompt": f"Where is the {word}?"} for word in WORDS[:4]]),
        "pairs": write_jsonl(tmp_path / "pairs.jsonl", PAIRS[4:]),
        "instructions": str(instructions),
        "questions": write_jsonl(tmp_path / "question.jsonl", questions),
        "function": f"{tmp_path / 'reward.py'}:reward",
        "requests": {
            name: write_jsonl(tmp_path / f"{name}.jsonl", [row(n, "punctuation:no_comma", *more) for n in range(4)])
            for name, more in {"own": ["startend:quotation"], "others": []}.items()
        },
    }


def test_every_kind_is_measured_in_every_round_and_shown(recipe, files, micro_model):
    short = {"max_new_tokens": 12}
    entries = [
        {"kind": "preferences", "pairs": files["pairs"], "certificate": True},
        {"kind": "reward", "name": "length", "prompts": files["prompts"], "function": files["function"], **short},
        {"kind": "alpaca", "instructions": files["instructions"], **short},
        {"kind": "mt_bench", "questions": files["questions"], **short},
        *({"kind": "ifeval", "name": name, "prompts": files["requests"][name], **short} for name in ("own", "others")),
    ]
    folder = evaluating(recipe, entries)
    run(recipe)
    rounds = [metrics_of(folder, number) for number in (0, 1)]
    assert [list(metrics) for metrics in rounds] == [
        ["preferences", "length", "alpaca", "mt_bench", "own", "others"]
    ] * 2

    # Accuracy and certificate are those of the round's policy, on the given pairs and on its own.
    human = load_pairs(files["pairs"])
    for number, metrics in enumerate(rounds):
        policy = folder / f"round-{number}/policy"
        result = result_of(folder, number, "preferences")
        assert metrics["preferences"]["value"] == pytest.approx((gaps_of(policy, micro_model, human) > 0).mean())
        assert metrics["preferences"]["low"] <= metrics["preferences"]["value"] <= metrics["preferences"]["high"]
        assert metrics["preferences"]["count"] == len(PAIRS[4:])
        assert (result["certificate"] is None) == (number == 0)
    own = load_from_disk(folder / "round-1/pairs")
    own = own.select([row for row, source in enumerate(own["source"]) if source == "self"])
    by_hand = certify_policy(gaps_of(policy, micro_model, human), gaps_of(policy, micro_model, own))
    for key in ("bound", "human", "own", "radius"):
        assert result["certificate"][key] == pytest.approx(getattr(by_hand, key), rel=1e-3, abs=1e-6)

    # What is followed, and the gain over the SFT model, are those of the answers on disk.
    baseline = json.loads((folder / "evaluations/own/baseline.json").read_text())
    for number, metrics in enumerate(rounds):
        lines = (folder / f"round-{number}/evaluations/own/responses.jsonl").read_text().splitlines()
        quiet, before = (
            np.array([("," not in one["response"]) and bool(one["response"].strip()) for one in side])
            for side in (map(json.loads, lines), baseline)
        )
        found = result_of(folder, number, "own")
        assert found["by_type"]["punctuation:no_comma"]["strict"]["rate"] == quiet.mean()
        assert [one["strict"][0] for one in found["requests"]] == quiet.tolist()
        assert result_of(folder, number, "others")["gain"]["instructions"]["mean"] == quiet.mean() - before.mean()
        assert metrics["own"]["value"] == found["by_level"]["prompts"]["strict"]["rate"]
        assert metrics["own"]["gain"]["instructions"]["mean"] == found["gain"]["instructions"]["mean"]

    # The win rate is that of the answers on disk.
    prompts = read_prompts(files["prompts"])
    for number, metrics in enumerate(rounds):
        answers = read_answers_to(folder / f"round-{number}/evaluations/length/answers.json", prompts).texts
        baseline = read_answers_to(folder / "evaluations/length/baseline.json", prompts).texts
        shares = [(len(a) > len(b)) + 0.5 * (len(a) == len(b)) for a, b in zip(answers, baseline, strict=True)]
        assert metrics["length"]["value"] == pytest.approx(np.mean(shares))
        logps = [
            score_responses(load_policy(path), prompts, answers).logps
            for path in (folder / f"round-{number}/policy", micro_model)
        ]
        assert metrics["length"]["kl"] == pytest.approx((logps[0] - logps[1]).mean(), rel=1e-4, abs=1e-6)
        assert 0 < metrics["length"]["tokens"] <= 12
        samples = (folder / f"round-{number}/evaluations/length/samples.jsonl").read_text().splitlines()
        assert [json.loads(line)["response"] for line in samples] == answers
    sides = [[len(row[0]["content"]) for row in own[side]] for side in ("chosen", "rejected")]
    shares = [(a > b) + 0.5 * (a == b) for a, b in zip(*sides, strict=True)]
    assert [metrics["length"]["agreement"] for metrics in rounds] == [None, pytest.approx(np.mean(shares))]

    # They are the round's own policy's, with the same seeds in every round.
    seed = int.from_bytes(hashlib.sha256(b"3/evaluations/alpaca").digest()[:4], "big") // 2
    asked = [[{"role": "user", "content": f"Describe the {word}."}] for word in WORDS[:3]]
    for number in (0, 1):
        policy = load_policy(folder / f"round-{number}/policy")
        written = generate_responses(policy, asked, n=1, max_new_tokens=12, seed=seed)
        outputs = read_answers_to(folder / f"round-{number}/evaluations/alpaca/model_outputs.json", asked)
        assert outputs.texts == [row[0].text for row in written]
        assert outputs.name == f"run-round-{number}"
    answers = folder / "round-1/evaluations/mt_bench/model_answer/run-round-1.jsonl"
    assert len(json.loads(answers.read_text())["choices"][0]["turns"]) == 2
    assert rounds[1]["alpaca"]["value"] is None

    planned, recorded = planned_and_recorded(folder)
    assert planned == recorded
    assert {"evaluations/length/baseline.json", "round-1/evaluations/mt_bench"} <= set(planned)

    page = (folder / "report.html").read_text()
    assert "length" in page and f"{rounds[1]['length']['value']:.3f}" in page


def test_a_judge_is_asked_once_even_if_the_run_is_interrupted(recipe, files):
    def prefers_longer(number, body):
        text = body["messages"][0]["content"]
        first = text.partition("[Answer A]")[2].partition("[End of answer A]")[0]
        second = text.partition("[Answer B]")[2].partition("[End of answer B]")[0]
        return completion(
            "Verdict: " + ("A" if len(first) > len(second) else "B" if len(first) < len(second) else "tie")
        )

    def breaks(number, body):
        return prefers_longer(number, body) if number < 3 else Reply(b"no more", status=401)

    with faulty(breaks) as server:
        entry = {"kind": "judge", "prompts": files["prompts"], "servers": [server.url], "model": "j"}
        entry |= {"max_new_tokens": 12, "options": {"concurrency": 1}}
        folder = evaluating(recipe, [entry], rounds=0)
        run(recipe, code=2)
        answered = len(server.asked) - 1
    assert answered == 3
    cache = folder / "evaluations/judge/verdicts.jsonl"
    assert len(cache.read_text().splitlines()) == 3
    assert not (folder / "round-0/metrics.json").exists()

    # Another server of the same judge goes on where that one broke off.
    with faulty(prefers_longer) as server:
        # The address is part of the recipe, which a run remembers.
        stored = folder / "config.yaml"
        stored.write_text(stored.read_text().replace(entry["servers"][0], server.url))
        evaluating(recipe, [entry | {"servers": [server.url]}], rounds=0)
        run(recipe)
        asked = len(server.asked)
        first = metrics_of(folder, 0)
        shutil.rmtree(folder / "round-0/evaluations")
        (folder / "round-0/metrics.json").unlink()
        run(recipe)
        assert len(server.asked) == asked
    assert metrics_of(folder, 0) == first
    result = result_of(folder, 0, "judge")
    assert 3 + asked == 2 * (result["prompts"] - result["identical"])
    answers = json.loads((folder / "round-0/evaluations/judge/answers.json").read_text())
    baseline = json.loads((folder / "evaluations/judge/baseline.json").read_text())
    lengths = [[len(row["response"].strip()) for row in rows] for rows in (answers, baseline)]
    shares = [(a > b) + 0.5 * (a == b) for a, b in zip(*lengths, strict=True)]
    assert first["judge"]["value"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "reward", "prompts": "nowhere.jsonl", "function": "f"}, "evaluate, reward: 'nowhere.jsonl'"),
        ({"kind": "preferences", "name": "human", "pairs": "nowhere.jsonl"}, "evaluate, human: 'nowhere.jsonl'"),
        ({"kind": "mt_bench", "questions": "nowhere.jsonl"}, "evaluate, mt_bench: nowhere.jsonl cannot be read"),
        (
            {"kind": "reward", "prompts": "{prompts}", "model": "./nowhere"},
            "evaluate, reward: reward model './nowhere'",
        ),
        ({"kind": "alpaca"}, "instructions is missing; kind 'alpaca' needs it"),
        ({"kind": "alpaca", "instructions": "i", "modle": "m"}, "unknown key evaluate.0.modle"),
    ],
)
def test_a_wrong_evaluation_is_refused_before_anything_is_trained(recipe, files, capsys, entry, words):
    entry = {key: files["prompts"] if value == "{prompts}" else value for key, value in entry.items()}
    folder = evaluating(recipe, [entry])
    run(recipe, code=2)
    assert words in capsys.readouterr().err
    assert not (folder / "round-0").exists()


def test_an_unknown_option_of_a_judge_is_named(recipe, files, capsys):
    entry = {"kind": "judge", "prompts": files["prompts"], "servers": ["http://x/v1"], "model": "j"}
    evaluating(recipe, [entry | {"options": {"temprature": 1}}])
    run(recipe, code=2)
    assert "evaluate.0: options: unknown key temprature; allowed: max_tokens, temperature," in capsys.readouterr().err
