import os

import pytest
from datasets import Dataset, Json, List
from trl.data_utils import extract_prompt

from refusals import unrefused
from sgpo.errors import InputError
from sgpo.preferences.columns import from_objects
from sgpo.preferences.layout import PAIR_FEATURES, clean_pairs, to_pairs, to_prompts
from sgpo.preferences.source import load_rows


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


PAIR = {"prompt": [user("Why?")], "chosen": [assistant("Because.")], "rejected": [assistant("No.")]}


def human(content):
    return {"from": "human", "value": content}


def gpt(content):
    return {"from": "gpt", "value": content}


TEXTS = {"chosen": "Because.", "rejected": "No."}
WHOLE = {"chosen": [user("Why?"), assistant("Because.")], "rejected": [user("Why?"), assistant("No.")]}
DIALOGUE = "\n\nHuman: Why?\n\nAssistant:"
LAYOUTS = {
    "UltraFeedback-binarized": {"prompt": "Why?", **WHOLE},
    "conversational, explicit prompt": PAIR,
    "conversational, prompt twice": {"prompt": [user("Why?")], **WHOLE},
    "conversational, implicit prompt": WHOLE,
    "standard, explicit prompt": {"prompt": "Why?", **TEXTS},
    "string prompt, message responses": {**PAIR, "prompt": "Why?"},
    "Anthropic": {side: f"{DIALOGUE} {text}" for side, text in TEXTS.items()},
    "Anthropic, explicit prompt": {"prompt": DIALOGUE, "chosen": " Because."[1:], "rejected": "No."},
    "Anthropic, prompt twice": {"prompt": DIALOGUE, **{side: f"{DIALOGUE} {text}" for side, text in TEXTS.items()}},
    "ShareGPT": {side: [human("Why?"), gpt(text)] for side, text in TEXTS.items()},
    "ShareGPT, one message a side": {
        "conversations": [human("Why?")], "chosen": gpt("Because."), "rejected": gpt("No.")
    },
    "messages under another key": {"messages": [user("Why?")], **TEXTS},
    "conversation and responses": {"conversation": [user("Why?")], "chosen": assistant("Because."), **TEXTS},
    "Argilla, UltraFeedback": {"instruction": "Why?", "chosen_response": "Because.", "rejected_response": "No."},
    "Intel, Orca": {"system": "", "question": "Why?", **TEXTS},
    "distilabel, Orca": {
        "system": None, "input": "Why?", **TEXTS, "generations": ["No.", "Because."], "rating": [1.0, 9.0]
    },
    "distilabel, ratings": {
        "instruction": "Why?", "generations": ["So.", "Because.", "No.", "Or?"], "ratings": [3, 5, 1, None]
    },
    "distilabel, conversations": {
        "prompt": "Why?", "generation_models": ["a", "b"], "chosen_model": "a", **WHOLE, "generations": ["x", "y"]
    },
    "Alpaca without an input": {"instruction": "Why?", "input": "", **TEXTS},
    "a prompt in two columns": {"question": "Why?", "messages": [user("Why?")], **TEXTS},
}  # fmt: skip


def test_every_layout_becomes_the_same_pair():
    for name, row in LAYOUTS.items():
        pairs = to_pairs(from_objects([row]), "pairs").select_columns(list(PAIR_FEATURES))
        assert (pairs[0], pairs.features) == (PAIR, PAIR_FEATURES), name


def test_an_implicit_prompt_is_the_one_that_trl_extracts():
    turns = [{"role": "system", "content": "Be brief."}, user("Who?"), assistant("He."), user("Why?")]
    row = {"chosen": [*turns, assistant("Because.")], "rejected": [*turns, assistant("No.")]}
    assert to_pairs(Dataset.from_list([row]), "pairs")[0] == extract_prompt(row)


def test_messages_of_other_keys_are_read_as_the_hub_loads_them():
    """There each message is a JSON text of its own."""
    turns = {side: [user("Why?"), {**assistant(text), "name": "Ann"}] for side, text in TEXTS.items()}
    dataset = Dataset.from_list([turns, WHOLE], on_mixed_types="use_json")
    assert dataset.features["chosen"] == List(Json())
    assert list(to_pairs(dataset, "f")) == [PAIR, PAIR]


def test_converting_pairs_twice_changes_nothing():
    for name, row in LAYOUTS.items():
        once = to_pairs(from_objects([row]), "pairs")
        twice = to_pairs(once, "pairs")
        assert (twice[:], twice.features) == (once[:], once.features), name
        assert to_prompts(to_prompts(once, "pairs"), "pool")["prompt"][:] == once["prompt"][:], name


SYSTEM = {"role": "system", "content": "Be brief."}
WITH_SYSTEM = {
    "a column beside texts": {"system": "Be brief.", "question": "Why?", **TEXTS},
    "distilabel's column": {"system_prompt": "Be brief.", "instruction": "Why?", **TEXTS},
    "a column beside conversations": {"system": "Be brief.", **WHOLE},
    "a column and the same turn": {"system": "Be brief.", **{side: [SYSTEM, *turns] for side, turns in WHOLE.items()}},
    "a turn of messages": {**PAIR, "prompt": [SYSTEM, user("Why?")], "system": " "},
    "a turn of ShareGPT": {
        "conversations": [{"from": "system", "value": "Be brief."}, human("Why?")],
        "chosen": gpt("Because."),
        "rejected": gpt("No."),
    },
}


def test_a_system_turn_begins_the_prompt_wherever_it_is_written():
    for name, row in WITH_SYSTEM.items():
        assert to_pairs(from_objects([row]), "f")[0]["prompt"] == [SYSTEM, user("Why?")], name
        assert to_prompts(from_objects([row]), "f")[0]["prompt"] == [SYSTEM, user("Why?")], name


def dialogue(*turns):
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {text}" for place, text in enumerate(turns))


def test_the_turns_that_dialogues_share_are_their_prompt():
    shared = ["Why?", "Which one?\n\n1. This\n\n2. Human: that", "The first."]
    row = {side: dialogue(*shared, text) for side, text in TEXTS.items()}
    roles = [user, assistant, user]
    prompt = [turn(text) for turn, text in zip(roles, shared, strict=True)]
    assert to_pairs(Dataset.from_list([row]), "f")[0] == {**PAIR, "prompt": prompt}


def test_turns_of_one_speaker_in_a_row_are_one_turn():
    """Chat templates want them to alternate; in Anthropic's data a few dialogues open a turn twice."""
    row = {
        "chosen": "\n\nHuman: Why?\n\nHuman: Tell me.\n\nAssistant: Because.\n\nAssistant: It is.",
        "rejected": "\n\nHuman: Why?\n\nHuman: Tell me.\n\nAssistant: No.",
    }
    found = to_pairs(Dataset.from_list([row]), "f")[0]
    assert found["prompt"] == [user("Why?\n\nTell me.")]
    assert (found["chosen"], found["rejected"]) == ([assistant("Because.\n\nIt is.")], [assistant("No.")])


def test_dialogues_that_differ_before_their_last_turn_are_named_or_dropped():
    good = {side: dialogue("Why?", text) for side, text in TEXTS.items()}
    differ = "the prompts of 'chosen' and 'rejected' differ"
    others = {
        dialogue("How?", "No."): differ,
        dialogue("Why?", "No.", "So?", "Because."): differ,
        dialogue("Why?", "No.", "So?"): "rejected ends in a turn of 'user'",
    }
    for other, message in others.items():
        rows = Dataset.from_list([good, {**good, "rejected": other}])
        with pytest.raises(InputError, match=f"f row 1: {message}"):
            to_pairs(rows, "f")
        pairs, dropped = clean_pairs(rows, "f")
        assert (len(pairs), sum(dropped.values())) == (1, 1)


def test_text_that_only_mentions_speakers_is_text():
    row = {"prompt": "Human: is this a dialogue?", "chosen": "No.\n\nAssistant: yes.", "rejected": "\n\nHuman: why?"}
    found = to_pairs(Dataset.from_list([row]), "f")[0]
    assert {name: turns[0]["content"] for name, turns in found.items()} == row


def rated(generations, ratings):
    return {"instruction": "Why?", "generations": generations, "ratings": ratings}


def test_of_rated_responses_the_best_and_the_worst_make_the_pair():
    row = rated(["a", "b", "c", "d", "e", "f"], [2.0, 5.0, None, 5.0, 1.0, 1.0])
    pair = to_pairs(from_objects([row]), "f")[0]
    assert (pair["chosen"], pair["rejected"]) == ([assistant("b")], [assistant("e")])
    assert pair["ratings"] == row["ratings"]
    tied = [rated(["a", "b"], [1, 1]), rated(["a", "b"], [1, None]), rated(["a", "b"], [None, None])]
    assert clean_pairs(from_objects([row, *tied]), "f")[1] == {"equal ratings": 3}


def test_other_columns_are_kept_row_by_row():
    rows = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b", "score": i / 2, "source": f"s{i}"} for i in range(2500)]
    shuffled = Dataset.from_list(rows).shuffle(seed=0)
    pairs = to_pairs(shuffled, "pairs")
    assert pairs["score"][:] == [float(prompt[0]["content"][:-1]) / 2 for prompt in pairs["prompt"]]
    assert pairs["source"][:] == shuffled["source"][:]


def test_text_is_kept_to_the_byte():
    text = "  a\n\n<|im_end|> {{ x }} ü\u2028 "
    pairs = to_pairs(Dataset.from_list([{"prompt": text, "chosen": text, "rejected": "b"}]), "pairs")
    assert pairs[0]["prompt"][0]["content"] == pairs[0]["chosen"][0]["content"] == text


GOOD = LAYOUTS["standard, explicit prompt"]
TURNS = LAYOUTS["conversational, implicit prompt"]
BAD_ROWS = {
    "equal responses": (GOOD, {**GOOD, "rejected": " Because.\n"}, r"chosen and rejected are equal \('Because\.'\)"),
    "empty response": (GOOD, {**GOOD, "chosen": "  "}, "the response of chosen is empty"),
    "empty prompt": (GOOD, {**GOOD, "prompt": " "}, "the prompt in prompt is empty"),
    "missing prompt": (GOOD, {**GOOD, "prompt": None}, "prompt is None; allowed: a string or a list"),
    "missing response": (PAIR, {**PAIR, "chosen": None}, "chosen is None"),
    "no messages": (PAIR, {**PAIR, "chosen": []}, r"chosen is \[\]"),
    "prompt ends in an answer": (
        PAIR,
        {**PAIR, "prompt": [user("Why?"), assistant("So.")]},
        "the prompt in prompt ends in a turn of 'assistant'; allowed: a user turn",
    ),
    "response by the user": (PAIR, {**PAIR, "rejected": [user("No.")]}, "rejected ends in a turn of 'user'"),
    "different prompts": (
        TURNS,
        {**TURNS, "rejected": [user("How?"), assistant("No.")]},
        "the prompts of 'chosen' and 'rejected' differ",
    ),
    "another prompt in the column": (
        {**PAIR, **TURNS},
        {**TURNS, "prompt": [user("How?")]},
        "chosen begins with other messages than 'prompt'",
    ),
    "no prompt at all": (
        TURNS,
        {"chosen": [assistant("a")], "rejected": [assistant("b")]},
        "chosen holds a response and no prompt",
    ),
    "dialogues and another prompt": (
        {"prompt": DIALOGUE, **{side: f"{DIALOGUE} {text}" for side, text in TEXTS.items()}},
        {"prompt": dialogue("How?", ""), **{side: f"{DIALOGUE} {text}" for side, text in TEXTS.items()}},
        "chosen begins with other messages than 'prompt'",
    ),
    "two prompts": (
        {"instruction": "Why?", "input": "", **TEXTS},
        {"instruction": "Why?", "input": "2 + 2", **TEXTS},
        "there are prompts in 'instruction', 'input', and they differ; allowed: one of them, or a column 'prompt'",
    ),
    "no prompt in any of two columns": (
        {"instruction": "Why?", "input": "", **TEXTS},
        {"instruction": None, "input": "", **TEXTS},
        "instruction is None; allowed: a string",
    ),
    "two system turns": (
        {"system": "", "prompt": [SYSTEM, user("Why?")], **TEXTS},
        {"system": "Be long.", "prompt": [SYSTEM, user("Why?")], **TEXTS},
        "system is 'Be long.'; allowed: a string, and the one of the system turn if prompt has one",
    ),
    "a number as system turn": ({**GOOD, "system": ""}, {**GOOD, "system": 3}, "system is 3; allowed: a string"),
    "an answer before a response": (
        {"conversations": [human("Why?")], **TEXTS},
        {"conversations": [human("Why?"), gpt("So.")], **TEXTS},
        "the prompt in conversations ends in a turn of 'assistant'",
    ),
    "an unknown speaker": (
        {"prompt": "Why?", **WHOLE},
        {**TEXTS, "prompt": "Why?", "chosen": [human("Why?"), {"from": "bot", "value": "x"}]},
        "the roles system, user, assistant, or ShareGPT's human, gpt",
    ),
    "ratings for other responses": (rated(["a", "b"], [1, 2]), rated(["a"], [1, 2]), "generations is .*; allowed: two"),
    "a rating that is no number": (rated(["a", "b"], [1, 2]), rated(["a", "b"], [1, "2"]), "ratings is .*of numbers"),
    "one rating": (rated(["a", "b"], [1, 2]), rated(["a", "b"], [1, None]), "ratings is .*two different numbers"),
    "a response that is no text": (rated(["a", "b"], [1, 2]), rated(["a", 3], [1, 2]), r"generations\[1\] is 3"),
    "unknown role": (PAIR, {**PAIR, "chosen": [{"role": "tool", "content": "x"}]}, "the roles system, user, assistant"),
    "content that is no text": (PAIR, {**PAIR, "chosen": [{"role": "assistant", "content": None}]}, "content None"),
}


def test_a_bad_row_is_named():
    cases = [(name, rf"^seeds\.jsonl row 1: .*{message}") for name, (_, _, message) in BAD_ROWS.items()]
    assert unrefused(lambda name: to_pairs(from_objects(BAD_ROWS[name][:2]), "seeds.jsonl"), cases) == {}


def test_a_number_as_content_is_named():
    rows = {"prompt": [1, 2], "chosen": ["a", "b"], "rejected": ["b", "a"]}
    with pytest.raises(InputError, match=r"seeds row 0: prompt is 1; allowed: a string"):
        to_pairs(Dataset.from_dict(rows), "seeds")


def test_a_missing_column_is_named_with_those_that_exist():
    columns = ("chosen", "rejected")
    cases = [
        (missing, rf"f has the columns \['prompt', .*and no '{missing}'; allowed: 'chosen'") for missing in columns
    ]
    assert unrefused(lambda missing: to_pairs(Dataset.from_list([GOOD]).remove_columns(missing), "f"), cases) == {}


def test_an_empty_dataset_is_refused():
    with pytest.raises(InputError, match="f has no rows; allowed: at least one"):
        to_pairs(Dataset.from_list([GOOD]).select([]), "f")


CONTENT = {
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
    "chat_template_kwargs": {"enable_thinking": False},
    "images": ["cat.png"],
    "image": "cat.png",
}
EMPTY = {
    "tools": [None, [], "", "[]", "null"],
    "chat_template_kwargs": [None, {}, {"enable_thinking": None}],
    "images": [None, [], [None]],
    "image": [None, ""],
}


def test_tools_and_images_are_refused_by_the_row_that_has_some_and_dropped_if_none_has():
    for column, values in EMPTY.items():
        rows = [{**GOOD, column: value} for value in values]
        for convert in (to_pairs, to_prompts):
            assert column not in convert(from_objects(rows), "f").column_names, column
            with pytest.raises(
                InputError, match=f"f row {len(values)}: '{column}' has content, which is not supported"
            ):
                convert(from_objects([*rows, {**GOOD, column: CONTENT[column]}]), "f")


POOLS = {
    "strings": {"prompt": "Why?"},
    "messages as prompt": {"prompt": [user("Why?")]},
    "messages with an answer": {"messages": [user("Why?"), assistant("Because.")]},
    "messages without": {"messages": [user("Why?")]},
    "ShareGPT with an answer": {"conversations": [human("Why?"), gpt("Because.")]},
    "a conversation": {"conversation": [user("Why?"), assistant("Because.")]},
    "an instruction": {"instruction": "Why?", "output": "Because."},
    "a dialogue": {"prompt": DIALOGUE},
    "a dialogue with an answer": {"prompt": f"{DIALOGUE} Because."},
    "an empty answer": {side: f"{DIALOGUE} " for side in TEXTS},
    **LAYOUTS,
}


def test_every_pool_becomes_the_same_prompts():
    for name, row in POOLS.items():
        prompts = to_prompts(from_objects([{**row, "id": 7}]), "pool")
        assert (prompts["prompt"][:], prompts["id"][:]) == ([[user("Why?")]], [7]), name


def test_a_pool_of_pairs_may_hold_equal_responses_but_no_bad_prompt():
    to_prompts(Dataset.from_list([{**GOOD, "rejected": "Because."}]), "pool")
    with pytest.raises(InputError, match="pool row 0: the prompt in prompt is empty"):
        to_prompts(Dataset.from_list([{**GOOD, "prompt": ""}]), "pool")


def test_prompts_of_two_columns_that_differ_are_refused_by_row():
    same = {"instruction": "Why?", "conversations": [human("Why?"), gpt("So.")]}
    rows = from_objects([same, {**same, "instruction": "How?"}])
    with pytest.raises(InputError, match="pool row 1: there are prompts in 'instruction', 'conversations', and they"):
        to_prompts(rows, "pool")


def test_a_pool_without_prompts_is_refused_with_its_columns():
    with pytest.raises(InputError, match=r"pool has the columns \['text'\] and no prompt; allowed: 'prompt'"):
        to_prompts(Dataset.from_list([{"text": "a"}]), "pool")


def plain(prompt="Why?", chosen="Because.", rejected="No."):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


NO_PREFERENCE = {
    "equal responses": plain(rejected=" Because.\n"),
    "empty response": plain(chosen="  "),
    "empty response (null)": plain(rejected=None),
    "empty prompt": plain(prompt="\n"),
    "empty prompt (null)": plain(prompt=None),
    "prompt too long": plain(prompt="x" * 100_000),
}


def test_a_row_that_is_not_a_preference_is_dropped_and_counted():
    for name, row in NO_PREFERENCE.items():
        rows = [{**one, "id": index} for index, one in enumerate([plain(), row, plain("How?")])]
        pairs, dropped = clean_pairs(Dataset.from_list(rows), "pairs", max_prompt_chars=99_999)
        assert dropped == {name.split(" (")[0]: 1}, name
        assert pairs[:] == to_pairs(Dataset.from_list([rows[0], rows[2]]), "pairs")[:], name


def test_conversations_that_are_not_preferences_are_dropped_by_reason():
    good = {"chosen": [user("Why?"), assistant("Because.")], "rejected": [user("Why?"), assistant("No.")]}
    bad = {
        "different prompts": {**good, "rejected": [user("Who?"), assistant("No.")]},
        "prompt without a last user turn": {side: [assistant("Hm."), turns[1]] for side, turns in good.items()},
        "empty response": {**good, "chosen": [user("Why?"), assistant(None)]},
        "empty prompt": {side: [user(None), turns[1]] for side, turns in good.items()},
    }
    pairs, dropped = clean_pairs(Dataset.from_list([good, *bad.values()]), "pairs")
    assert dropped == dict.fromkeys(bad, 1)
    assert pairs[:] == to_pairs(Dataset.from_list([good]), "pairs")[:]


def test_a_prompt_of_the_longest_length_is_kept():
    pairs, dropped = clean_pairs(Dataset.from_list([plain("x" * 50)]), "pairs", max_prompt_chars=50)
    assert (len(pairs), dropped) == (1, {})


def test_content_of_another_type_is_an_error():
    with pytest.raises(InputError, match="pairs row 0: prompt is 3; allowed: a string or a list of messages"):
        clean_pairs(Dataset.from_list([plain(prompt=3)]), "pairs")


def test_a_dataset_without_any_preference_is_refused_with_the_reasons():
    rows = [plain(rejected="Because."), plain(prompt="")]
    with pytest.raises(InputError, match="none of the 2 rows is a preference: 1 equal responses, 1 empty prompt"):
        clean_pairs(Dataset.from_list(rows), "pairs")


def test_real_dialogues_are_read():
    """Anthropic's harmless-base test set, less 500 dialogues; three of its responses are empty."""
    folder = os.environ.get("SGPO_REAL_DIALOGUES", "")
    if not folder:
        pytest.skip("SGPO_REAL_DIALOGUES names no folder with pairs.jsonl.gz")
    rows = load_rows(f"{folder}/pairs.jsonl.gz")
    prompts, (pairs, dropped) = to_prompts(rows, "f"), clean_pairs(rows, "f")
    assert (len(prompts), len(pairs), dropped) == (1812, 1809, {"empty response": 3})
    for turns in prompts["prompt"]:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    raw = [row for row in rows if all(row[side].rpartition("Assistant:")[2].strip() for side in TEXTS)]
    for row, pair in zip(raw, pairs, strict=True):
        for side in TEXTS:
            said = " ".join(turn["content"] for turn in [*pair["prompt"], *pair[side]])
            assert said.split() == row[side].replace("\n\nHuman:", " ").replace("\n\nAssistant:", " ").split()
