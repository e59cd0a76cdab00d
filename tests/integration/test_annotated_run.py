"""Rounds that are ranked by someone else than the policy itself."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import yaml
from datasets import load_from_disk
from safetensors.numpy import load_file

from faulty_server import Reply, completion, faulty
from integration.conftest import PAIRS, WORDS, write_jsonl
from integration.whole_runs import planned_and_recorded
from sgpo.choices import Failure
from sgpo.cli import main
from sgpo.config.options import HeadsOptions
from sgpo.policy.load import load_policy
from sgpo.policy.sampling import Response
from sgpo.preferences.annotators.heads import RewardHeads
from sgpo.preferences.annotators.pair_ranker import PairRanker
from sgpo.preferences.annotators.reward_model import RewardModel
from sgpo.rounds import responses
from sgpo.stats.heads import Heads
from tiny_annotators import build_tiny_classifier, build_tiny_pair_ranker
from tiny_model import build_tiny_model

SHORTEST = "def rank(prompts, responses):\n    return [[-len(text) for text in texts] for texts in responses]\n"


def run_with(recipe, *changes):
    # Preferences that the policy does not share move it far at the recipe's learning rate.
    always = ["rounds=1", "leader.learning_rate=1e-5"]
    assert main(["run", "--config", str(recipe), "--quiet", *always, *changes]) == 0
    folder = recipe.parent / "run/round-1"
    pairs = load_from_disk(folder / "pairs").filter(lambda row: row["source"] == "self")
    texts = [[row[side][0]["content"] for side in ("chosen", "rejected")] for row in pairs]
    counts = json.loads((folder / "pairs/annotation.json").read_text())
    assert counts["prompts"] == counts["paired"] + sum(counts["dropped"].values())
    assert counts["pairs"] == len(texts) > 0
    return pairs["prompt"][:], texts, counts


def test_a_function_ranks_and_all_its_pairs_are_made(recipe, tmp_path):
    (tmp_path / "rewards.py").write_text(SHORTEST)
    function = f"annotation.function={tmp_path / 'rewards.py'}:rank"
    _, texts, counts = run_with(recipe, "annotation.annotator=function", function, "annotation.choice=all")
    assert all(len(chosen) < len(rejected) for chosen, rejected in texts)
    assert counts["pairs"] >= counts["paired"]


@pytest.mark.parametrize(
    ("annotator", "build", "load"),
    [
        ("reward_model", build_tiny_classifier, RewardModel),
        ("pair_ranker", build_tiny_pair_ranker, PairRanker),
    ],
)
def test_a_model_ranks(recipe, tmp_path, annotator, build, load):
    path = build(tmp_path / annotator)
    changes = [f"annotation.annotator={annotator}", f"annotation.model={path}", "generation.candidates=2"]
    prompts, texts, _ = run_with(recipe, *changes)
    rewards = load(path)(prompts, texts).rewards.reshape(-1, 2)
    assert (np.diff(rewards) < 0).all()


@pytest.fixture
def heads(recipe):
    """Changes of the recipe that have heads rank, fitted on twelve pairs."""
    seeds = write_jsonl(recipe.parent / "twelve.jsonl", PAIRS)
    return ["annotation.annotator=heads", "annotation.options={heads: 3, penalty: 1}", f"data.seeds={seeds}"]


def test_heads_are_fitted_once_on_the_seeds_and_survive_an_interruption(recipe, heads, monkeypatch, capsys):
    """Byte by byte those of another run, planned under the name of their stage, and refused once they are damaged."""
    command = ["run", "--config", str(recipe), "--quiet", "rounds=1", "leader.learning_rate=1e-5", *heads]
    with monkeypatch.context() as patched:
        patched.setattr("sgpo.rounds.loop.train_round", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert [main([*command, *other]) for other in ([], [f"output={recipe.parent / 'other'}"])] == [130, 130]
    folder = recipe.parent / "run/heads"
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert set(before) == {"heads.json", "heads.safetensors"}
    prompts, texts, counts = run_with(recipe, *heads)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before
    for name, (content, _) in before.items():
        assert (recipe.parent / "other/heads" / name).read_bytes() == content
    about = json.loads(before["heads.json"][0])
    assert about["pairs"] == len(PAIRS) and 0.5 < about["accuracy"] <= about["high"] <= 1
    told = json.loads((recipe.parent / "run/round-0/metrics.json").read_text())["heads"]
    assert {**told, **about} == told
    check_order(yaml.safe_load(recipe.read_text())["model"]["path"], folder, prompts, texts)
    assert counts["ranking"]["too_long"] == 0 and counts["ranking"]["annotator"] == "heads"
    planned, recorded = planned_and_recorded(recipe.parent / "run")
    assert planned == recorded and "heads" in planned
    shutil.rmtree(recipe.parent / "run/round-1")
    (folder / "heads.safetensors").write_bytes(b"no tensors")
    assert main(command) == 2
    assert "heads/heads.safetensors is damaged" in capsys.readouterr().err


def check_order(model, folder, prompts, texts):
    """The heads in a folder, on the states of a model, have ranked the pairs."""
    found = Heads(**load_file(folder / "heads.safetensors"))
    assert found.weights.shape == (3, 32)
    options = HeadsOptions(penalty=1, pooling=json.loads((folder / "heads.json").read_text())["pooling"])
    rewards = RewardHeads(load_policy(model, device="cpu"), options, found)(prompts, texts).rewards
    assert (np.diff(rewards.reshape(-1, 2)) < 0).all()


def test_heads_on_the_states_of_another_model_read_that_one(recipe, heads, tmp_path):
    path = build_tiny_model(tmp_path / "other-model", seed=5)
    prompts, texts, _ = run_with(recipe, *heads, f"annotation.model={path}")
    check_order(path, recipe.parent / "run/heads", prompts, texts)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_heads_need_ten_seed_pairs_and_the_plan_says_so(recipe, capsys, dry):
    assert main(["run", "--config", str(recipe), *dry, "annotation.annotator=heads"]) == 2
    assert "annotation.annotator: 'heads' with 8 seed pairs; allowed: at least 10." in capsys.readouterr().err
    mute = build_tiny_model(recipe.parent / "mute", chat_template=False)
    assert main(["run", "--config", str(recipe), *dry, "annotation.annotator=heads", f"annotation.model={mute}"]) == 2
    assert "mute' has no chat template" in capsys.readouterr().err
    assert not (recipe.parent / "run/seed").exists()
    assert main(["run", "--config", str(recipe), "--dry-run", "annotation.annotator=heads", "rounds=0"]) == 0


def test_a_judge_on_a_server_ranks_and_its_counts_are_kept(recipe):
    def prefer_shorter(number, body):
        shown = body["messages"][0]["content"]
        first = shown.split("[Answer A]\n")[1].split("\n[End of answer A]")[0]
        second = shown.split("[Answer B]\n")[1].split("\n[End of answer B]")[0]
        return completion(f"Verdict: {'A' if len(first) < len(second) else 'B' if len(first) > len(second) else 'tie'}")

    with faulty(prefer_shorter) as server:
        changes = ["annotation.annotator=judge", "annotation.model=judge", f"annotation.servers=[{server.url}]"]
        _, texts, counts = run_with(recipe, *changes)
    assert all(len(chosen) < len(rejected) for chosen, rejected in texts)
    assert 2 * counts["ranking"]["comparisons"] == len(server.asked) > 0
    assert counts["ranking"]["inconsistent"] == 0 and not counts["ranking"].keys() & set(Failure.__args__)


def test_a_judge_that_fails_now_and_then_ranks_the_rest_and_the_counts_say_why(recipe):
    """One comparison is filtered and one gets no verdict; a judge that says nothing at all stops the run."""

    def fails(number, body):
        if number == 5:
            return Reply(b'{"error": {"code": "content_filter"}}', status=400)
        return completion("Hm." if number == 7 else "Verdict: A" if number % 2 else "Verdict: B")

    changes = ["annotation.annotator=judge", "annotation.model=judge", "annotation.options={concurrency: 1}"]
    with faulty(fails) as server:
        _, _, counts = run_with(recipe, *changes, f"annotation.servers=[{server.url}]")
    assert (counts["ranking"]["filtered"], counts["ranking"]["no_verdict"]) == (1, 1)
    assert counts["dropped"]["failed"] == 0 and counts["pairs"] > 0


@pytest.mark.parametrize("change", ["annotation.per_token=true", "annotation.length_penalty=0.1"])
def test_responses_without_text_or_beyond_the_context_cost_only_themselves(recipe, tmp_path, monkeypatch, change):
    """What a server filters, an empty answer, and one whose tokens are more than were generated."""
    content = yaml.safe_load(recipe.read_text())
    shutil.copytree(content["model"]["path"], tmp_path / "short")
    config = json.loads((tmp_path / "short/config.json").read_text())
    (tmp_path / "short/config.json").write_text(json.dumps({**config, "max_position_embeddings": 80}))
    answers = [
        [Response.missing("filtered"), Response("", "stop", 1), Response("A mason.", "stop", 5)],
        [Response("zq" * 80, "length", 24), Response("Of stone.", "stop", 5), Response("It is old.", "stop", 6)],
    ]

    class Server:
        def generate(self, prompts, seeds, sampling, *, progress=None):
            return [answers[seed % 2] for seed in range(len(prompts))]

    monkeypatch.setattr(responses, "open_generator", lambda *_, **__: nullcontext(Server()))
    _, texts, counts = run_with(recipe, f"model.path={tmp_path / 'short'}", change)
    assert {*texts[0]} == {"Of stone.", "It is old."} and counts["pairs"] == len(WORDS) // 2
    assert (counts["dropped"]["failed"], counts["dropped"]["empty"]) == (0, len(WORDS) // 2)
    assert counts["scored"] == dict.fromkeys(("policy", "reference"), 4 * len(WORDS) // 2)


def test_a_judge_without_verdicts_stops_the_run_with_what_it_said(recipe, capsys):
    with faulty(lambda number, body: completion("I like both.")) as server:
        changes = ["annotation.annotator=judge", "annotation.model=judge", f"annotation.servers=[{server.url}]"]
        assert main(["run", "--config", str(recipe), "--quiet", *changes]) == 2
    said = capsys.readouterr().err
    assert "requests failed (no_verdict" in said and "I like both." in said and "max_failed" in said


def test_after_too_many_failures_a_run_goes_on_as_the_message_says_and_pays_for_nothing_twice(recipe, capsys):
    """The judge filters every third request; the user allows that, or asks again once it filters nothing."""

    def filters(number, body):
        if sum(body["messages"][0]["content"].encode()) % 3 == 0:
            return Reply(b'{"error": {"code": "content_filter"}}', status=400)
        return completion("Verdict: A")

    with faulty(filters) as server:
        changes = ["annotation.annotator=judge", "annotation.model=judge", f"annotation.servers=[{server.url}]"]
        changes += ["rounds=1", "leader.learning_rate=1e-5", "annotation.options={concurrency: 1}"]
        assert main(["run", "--config", str(recipe), "--quiet", *changes]) == 2
        said, asked = capsys.readouterr().err, len(server.asked)
        assert "requests failed (filtered" in said and "max_failed" in said and "retry_failed" in said
        assert main(["run", "--config", str(recipe), "--quiet", *changes]) == 2
        assert len(server.asked) == asked
        # Only verdicts for the answer in front: all ties, so that no pair is left, but everything was asked once.
        assert main(["run", "--config", str(recipe), "--quiet", *changes, "annotation.max_failed=1"]) == 2
        assert "no pair left" in capsys.readouterr().err
        bodies = [json.dumps(body) for body in server.asked]
        assert len(bodies) == len(set(bodies)) > asked
