"""The world of checkable requests: requests and constraints, gold, labels, and the files of a run."""

import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, product

import numpy as np
import pytest
from if_verifiable.ifeval.instructions_registry import INSTRUCTION_CONFLICTS, conflict_make
from transformers import GenerationConfig

from refusals import unrefused
from request_writers import SketchyWriter
from sgpo.errors import InputError
from sgpo.evaluate.ifeval import Request as Checkable
from sgpo.evaluate.ifeval import read_requests as read_checkable
from sgpo.evaluate.ifeval import score_responses
from sgpo.preferences.source import load_pairs, load_prompts
from sgpo.store.progress import Reporter
from sgpo_research import checkable_world
from sgpo_research.checkable_world import Annotator, WorldSize, part_prompts, write_world
from sgpo_research.command import main
from sgpo_research.worlds import samples
from sgpo_research.worlds.constraints import CONSTRAINTS, Request, draw_constraint
from sgpo_research.worlds.gold_pairs import GoldPair, gold, label
from sgpo_research.worlds.prompts import read_requests, split_requests
from tiny_model import build_tiny_model

PARTS = ("seeds", "heldout", "pool", "test_seen", "test_unseen")
SIZE = WorldSize(seeds=20, heldout=15, pool=16, rounds=2, test=24, sampled=(72, 48))
CAT = Request("Explain why cats purr.", "animals", ("happy", "sound", "calm"))


def write(folder, *, seed=0, annotator=None, writer=None, size=SIZE, model="a model", batch_size=48):
    return write_world(
        folder, size=size, annotator=annotator or Annotator(), seed=seed, model=model,
        open_generator=lambda: writer or SketchyWriter(), batch_size=batch_size, reporter=Reporter(),
    )  # fmt: skip


def follows(names, kwargs, text):
    return score_responses([Checkable(0, "", names, kwargs)], [text])[0].strict


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@cache
def drawn_prompts():
    return {part: part_prompts(part, 300, seed=0 if part == "pool" else None) for part in PARTS}


def test_there_are_thirty_requests_in_each_of_ten_topics_and_three_words_that_a_request_does_not_hold():
    requests = read_requests()
    assert len({request.text for request in requests}) == 300
    topics = Counter(request.topic for request in requests)
    assert len(topics) == 10 and set(topics.values()) == {30}
    for request in requests:
        assert len(set(request.words)) == 3, request.text
        assert not any(re.search(word, request.text, re.IGNORECASE) for word in request.words), request.text


def test_no_request_is_in_two_parts_and_every_topic_is_in_each():
    parts = split_requests()
    for first, second in combinations(parts, 2):
        assert not set(parts[first]) & set(parts[second])
    assert all(len({request.topic for request in requests}) == 10 for requests in parts.values())
    found = {part: {prompt.request for prompt in prompts} for part, prompts in drawn_prompts().items()}
    test = found.pop("test_seen") | found.pop("test_unseen")
    assert not test & set.union(*found.values())


def test_types_of_the_pools_are_in_no_seeds_and_those_of_the_test_nowhere_else():
    groups = {
        part: {one.constraint.group for prompt in prompts for one in prompt.constraints}
        for part, prompts in drawn_prompts().items()
    }
    assert groups == {
        "seeds": {"seeds"}, "heldout": {"seeds", "pools"}, "pool": {"seeds", "pools"},
        "test_seen": {"seeds"}, "test_unseen": {"pools", "test"},
    }  # fmt: skip
    counts = Counter(constraint.group for constraint in CONSTRAINTS)
    assert sum(counts.values()) >= 15 and counts["seeds"] >= 9 and counts["pools"] >= 3 and counts["test"] >= 3


def test_no_prompt_has_two_constraints_that_contradict_each_other():
    table = conflict_make({name: set(others) for name, others in INSTRUCTION_CONFLICTS.items()})
    for prompts in drawn_prompts().values():
        for prompt in prompts:
            names = prompt.row["instruction_id_list"]
            assert len(names) == len(set(names)) <= 2, prompt.text
            assert not any(second in table.get(first, ()) for first, second in combinations(names, 2)), prompt.text
            kwargs = {name: value for one in prompt.constraints for name, value in one.kwargs.items()}
            wanted = {*kwargs.get("keywords", ()), kwargs.get("keyword"), kwargs.get("word")}
            assert not wanted & set(kwargs.get("forbidden_words", ())), prompt.text
            assert sum("length" in one.constraint.aspects for one in prompt.constraints) <= 1, prompt.text


def test_prompts_are_distinct_and_a_larger_count_begins_with_the_same():
    for part in PARTS:
        seed = 0 if part == "pool" else None
        many = part_prompts(part, 200, seed=seed)
        assert part_prompts(part, 30, seed=seed) == many[:30]
        assert len({prompt.text for prompt in many}) == len({prompt.key for prompt in many}) == 200


# By type: a response that follows its constraint with these arguments, and one that does not.
RESPONSES = {
    "few_words": ({"num_words": 4, "relation": "less than"}, "Cats are happy.", "Cats are happy and calm."),
    "one_sentence": ({"num_sentences": 2, "relation": "less than"}, "Dr. Cat is happy.", "It purrs. It is happy."),
    "title": ({}, "<<Cats>>\nThey purr.", "**Cats**\nThey purr."),
    "bullets": ({"num_bullets": 2}, "* One\n* Two", "* One\n* Two\n* Three"),
    "no_comma": ({}, "Cats purr.", "Cats, they purr."),
    "keyword": ({"keywords": ["calm"]}, "A Calm cat.", "A cat."),
    "two_keywords": ({"keywords": ["calm", "sound"]}, "A calm sound.", "A calm cat."),
    "forbidden": ({"forbidden_words": ["happy"]}, "A calm cat.", "A happy cat."),
    "keyword_often": ({"keyword": "cat", "frequency": 2, "relation": "at least"}, "A cat is a cat.", "A cat."),
    "letter": ({"letter": "p", "let_frequency": 2, "let_relation": "at least"}, "Happy.", "Purr."),
    "highlights": ({"num_highlights": 1}, "A *calm* cat.", "A calm cat."),
    "ending": ({"end_phrase": "That is all."}, "Cats purr. That is all.", "That is all. Cats purr."),
    "postscript": ({"postscript_marker": "P.S."}, "Cats purr.\nP.S. And sleep.", "Cats purr."),
    "quotation": ({}, '"Cats purr."', '"Cats" purr.'),
    "placeholders": ({"num_placeholders": 1}, "Ask [name].", "Ask a vet."),
    "numbers": ({"N": 1}, "I have 2 cats.", "I have two cats."),
    "pronouns": ({"N": 2}, "It is my cat.", "It is a cat."),
    "keyword_place": ({"word": "calm", "N": 2}, "Cats purr. It is calm.", "It is calm. Cats purr."),
    "lowercase": ({}, "cats are happy and they purr.", "Cats are happy and they purr."),
}  # fmt: skip


def test_the_gold_of_hand_written_responses_is_what_their_constraints_say():
    for constraint in CONSTRAINTS:
        kwargs, good, bad = RESPONSES[constraint.name]
        assert set(kwargs) == set(draw_constraint(constraint, CAT, np.random.default_rng(0)).kwargs), constraint.name
        found = [follows([constraint.instruction], [kwargs], text) for text in (good, bad, "", " ")]
        assert found == [[True], [False], [False], [False]], constraint.name
    both = ["punctuation:no_comma", "keywords:existence"]
    kwargs = [{}, {"keywords": ["calm"]}]
    texts = ("A calm cat.", "A cat.", "A calm, calm cat.", "A cat, a dog.")
    assert [gold(follows(both, kwargs, text)) for text in texts] == [1, 0.5, 0.5, 0]


RELATIONS = {"less than": "fewer than|less than|under", "at least": "at least|or more"}


def test_every_wording_states_the_arguments_of_its_checker():
    for constraint in CONSTRAINTS:
        for wording, seed in product(constraint.wordings, range(12)):
            drawn = draw_constraint(replace(constraint, wordings=(wording,)), CAT, np.random.default_rng(seed))
            if constraint.name == "one_sentence":  # Less than two.
                assert drawn.kwargs == {"num_sentences": 2, "relation": "less than"}
                assert re.search("single sentence|one sentence", drawn.text)
                continue
            for name, value in drawn.kwargs.items():
                if name.endswith("relation"):
                    stated = re.search(RELATIONS[value], drawn.text)
                elif isinstance(value, int):
                    stated = re.search(rf"\b{value}\b", drawn.text)
                else:
                    stated = all(part in drawn.text for part in ([value] if isinstance(value, str) else value))
                assert stated, (constraint.name, drawn.text, name, value)


def pair_of(prompt, chosen, rejected, chosen_follows, rejected_follows):
    return GoldPair(prompt, chosen, rejected, tuple(chosen_follows), tuple(rejected_follows))


def gold_pairs(count=40):
    """Pairs in gold order to prompts with one or two constraints; every third chosen response is the shorter one."""
    pairs = []
    for place, prompt in enumerate(part_prompts("seeds", count)):
        many = len(prompt.constraints)
        lengths = (5, 9) if place % 3 == 0 else (9, 5)
        pairs.append(pair_of(prompt, "a" * lengths[0], "b" * lengths[1], [True] * many, [False] + [True] * (many - 1)))
    return pairs


def test_clean_labels_are_in_gold_order():
    assert label(gold_pairs(), "clean", np.random.default_rng(0)) == gold_pairs()


def test_a_quarter_is_flipped_and_which_quarter_depends_on_the_seed():
    pairs = gold_pairs()
    first, again, other = (label(pairs, "flipped", np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
    for labelled in (first, other):
        assert Counter(new == old.swapped for new, old in zip(labelled, pairs, strict=True)) == {True: 10, False: 30}
        assert all(new in (old, old.swapped) for new, old in zip(labelled, pairs, strict=True))


def test_inverted_types_are_wrong_wherever_the_responses_differ_in_them_and_nothing_else_is():
    pairs = gold_pairs(80)
    kinds = (pairs[0].prompt.constraints[0].constraint.name, pairs[1].prompt.constraints[0].constraint.name)
    labelled = label(pairs, "inverted", np.random.default_rng(0), inverted=kinds)
    changed = 0
    for new, old in zip(labelled, pairs, strict=True):
        # The responses of `gold_pairs` differ in the first constraint alone.
        if old.prompt.constraints[0].constraint.name in kinds:
            assert new == old.swapped
            changed += 1
        else:
            assert new == old
    assert changed >= 2


def test_an_inverted_type_decides_even_where_gold_orders_the_pair_by_another_one():
    prompt = next(one for one in part_prompts("seeds", 99) if len(one.constraints) == 2)
    first, second = (one.constraint.name for one in prompt.constraints)
    pair = pair_of(prompt, "x", "y", (True, False), (False, True))
    for kinds, follows_chosen in ((first, (False, True)), (second, (True, False))):
        (found,) = label([pair], "inverted", np.random.default_rng(0), inverted=(kinds,))
        assert found.chosen_follows == follows_chosen


def test_a_length_biased_annotator_chooses_the_longer_response_and_gold_decides_ties():
    pairs = gold_pairs()
    pairs.append(pair_of(pairs[0].prompt, "same", "size", pairs[0].chosen_follows, pairs[0].rejected_follows))
    labelled = label(pairs, "length", np.random.default_rng(0))
    assert all(len(one.chosen) >= len(one.rejected) for one in labelled)
    assert labelled[-1] == pairs[-1]
    assert Counter(new == old for new, old in zip(labelled, pairs, strict=True)) == {True: 27, False: 14}


def test_pairs_are_the_best_and_the_worst_finished_response_by_the_checkers(tmp_path):
    write(tmp_path)
    sampled = {row["key"]: row for path in (tmp_path / "samples").glob("*.jsonl") for row in rows_of(path)}
    for pair in (row for name in ("seeds", "heldout") for row in rows_of(tmp_path / f"clean-0/{name}.jsonl")):
        row = sampled[pair["key"]]
        golds = {
            text: gold(follows(row["instruction_id_list"], row["kwargs"], text))
            for text, reason in zip(row["responses"], row["finish_reasons"], strict=True)
            if reason == "stop"
        }
        assert pair["gold_chosen"] == golds[pair["chosen"]] == max(golds.values())
        assert pair["gold_rejected"] == golds[pair["rejected"]] == min(golds.values())
        assert pair["gold_chosen"] > pair["gold_rejected"]


def test_annotators_label_the_same_pairs_and_the_rest_is_gold(tmp_path):
    annotators = (Annotator(), Annotator("flipped"), Annotator("inverted", ("title",)), Annotator("length"))
    folders = [write(tmp_path, annotator=annotator)["folder"] for annotator in annotators]
    assert len(set(folders)) == 4
    clean, *others = ([(tmp_path / folder / name).read_bytes() for name in ("heldout.jsonl", "prompts.jsonl",
                       "test_seen.jsonl", "test_unseen.jsonl")] for folder in folders)  # fmt: skip
    assert all(other == clean for other in others)
    pairs = [[(row["key"], {row["chosen"], row["rejected"]}) for row in rows_of(tmp_path / folder / "seeds.jsonl")]
             for folder in folders]  # fmt: skip
    assert all(other == pairs[0] for other in pairs)
    against = [json.loads((tmp_path / folder / "summary.json").read_text())["pairs"]["seeds"]["against_gold"]
               for folder in folders]  # fmt: skip
    assert against[0] == 0 and against[1] == 0.25


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_pairs_and_prompts_but_the_same_test(tmp_path):
    for place, seed in (("a", 0), ("b", 0), ("a", 1)):
        write(tmp_path / place, seed=seed)
    first, again, other = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (tmp_path / "a/clean-0", tmp_path / "b/clean-0", tmp_path / "a/clean-1")
    )
    assert first == again
    assert {name for name in first if first[name] == other[name]} == {"test_seen.jsonl", "test_unseen.jsonl"}


def test_samples_are_made_once_and_an_interrupted_job_asks_only_for_what_is_missing(tmp_path):
    whole, first, second = SketchyWriter(), SketchyWriter(), SketchyWriter()
    write(tmp_path, writer=whole)
    assert len(whole.asked) == len(set(whole.asked)) == 120
    before = (tmp_path / "clean-0/seeds.jsonl").read_bytes()
    write(tmp_path, writer=first, seed=1)
    assert first.asked == []
    (tmp_path / "samples/seeds-00001.jsonl").unlink()
    write(tmp_path, writer=second)
    assert len(second.asked) == 24
    assert (tmp_path / "clean-0/seeds.jsonl").read_bytes() == before


def test_a_batch_larger_than_a_file_is_filled_and_changes_nothing(tmp_path):
    writers = SketchyWriter(), SketchyWriter()
    for writer, batch_size in zip(writers, (192, 400), strict=True):
        write(tmp_path / str(batch_size), writer=writer, batch_size=batch_size)
    assert [writer.calls for writer in writers] == [[24] * 5, [72, 48]]
    files = [sorted((tmp_path / name / "samples").iterdir()) for name in ("192", "400")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))


def test_the_loop_and_the_checkers_read_the_files(tmp_path):
    write(tmp_path)
    columns = {"key", "instruction_id_list", "kwargs", "types", "topic", "request"}
    pairs = load_pairs(tmp_path / "clean-0/seeds.jsonl")
    assert len(pairs) == 20 and columns | {"gold_chosen", "gold_rejected"} <= set(pairs.column_names)
    for name, count in (("prompts", 32), ("test_seen", 24), ("test_unseen", 24)):
        prompts = load_prompts(tmp_path / f"clean-0/{name}.jsonl")
        rows = rows_of(tmp_path / f"clean-0/{name}.jsonl")
        assert len(prompts) == count and columns <= set(prompts.column_names)
        assert prompts["kwargs"][:] == [row["kwargs"] for row in rows]
        checkable = read_checkable(tmp_path / f"clean-0/{name}.jsonl")
        assert [(one.key, one.prompt, one.instructions, one.kwargs) for one in checkable] == [
            (row["key"], row["prompt"], row["instruction_id_list"], row["kwargs"]) for row in rows
        ]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    write(tmp_path)
    assert not unrefused(
        lambda change: write(tmp_path, **change()),
        [
            (lambda: {"model": "another"}, "holds responses made with .*another --output"),
            (lambda: {"size": WorldSize(seeds=70, sampled=(72, 48))}, "--seeds is 70; the responses to .* up to"),
            (lambda: {"size": WorldSize(pool=0)}, "--pool is 0"),
            (lambda: {"seed": -1}, "--seed is -1"),
            (lambda: {"annotator": Annotator("inverted")}, "--inverted is .* with --labels inverted"),
            (lambda: {"annotator": Annotator("clean", ("title",))}, "--inverted is .* with --labels clean"),
            (lambda: {"annotator": Annotator("inverted", ("titles",))}, "--inverted is 'titles'; allowed: .*title"),
            (lambda: {"annotator": Annotator("noisy")}, "--labels is 'noisy'"),
        ],
    )


def test_the_command_refuses_a_folder_that_is_no_model_in_one_line(capsys, tmp_path):
    arguments = ["requests", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "none" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded_leaves_nothing(tmp_path):
    def fail():
        raise InputError("no model")

    arguments = {"size": SIZE, "annotator": Annotator(), "seed": 0, "model": "a model", "reporter": Reporter()}
    arguments["batch_size"] = 48
    with pytest.raises(InputError, match="no model"):
        write_world(tmp_path / "out", open_generator=fail, **arguments)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_world_of_the_models_own_responses(capsys, tmp_path, monkeypatch):
    for module in (checkable_world, samples):
        monkeypatch.setattr(module, "SHARD", 12)
    model = build_tiny_model(tmp_path / "model", context=512)
    # Its random weights would hardly end a response.
    GenerationConfig(eos_token_id=[2, *range(100, 120)]).save_pretrained(model)
    counts = ["--seeds", "1", "--heldout", "1", "--pool", "4", "--rounds", "2", "--test", "3", "--sampled", "12", "12"]
    assert main(["requests", "--model", str(model), "--output", str(tmp_path), "--batch-size", "96", *counts]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "clean-0/summary.json").read_text(encoding="utf-8"))
    assert summary["prompts"] == {"prompts": 8, "test_seen": 3, "test_unseen": 3}
    assert all(name in said for name in summary["types"]) and "seeds: 1 pairs, 0% against gold" in said
    assert len(rows_of(tmp_path / "samples/seeds-00000.jsonl")) == 12
