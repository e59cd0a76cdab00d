"""Which prompts a round takes."""

import json

import pytest

from sgpo.config import RunConfig, validate
from sgpo.errors import InputError
from sgpo.rounds.data import pool_shares, pools, round_prompts


def recipe(prompts, per_round, rounds=2):
    data = {"seeds": "s", "prompts": prompts, "prompts_per_round": per_round}
    return validate(RunConfig, {"output": "x", "rounds": rounds, "model": {"path": "m"}, "data": data}, "recipe")


@pytest.mark.parametrize(
    ("prompts", "per_round", "shares"),
    [
        ("p", None, [[5, 5]]),
        ("p", 3, [[3, 3]]),
        ("p", [7, 4], [[7, 4]]),
        (["p", "q"], None, [[11], [11]]),
        (["p", "q"], 3, [[3], [3]]),
        (["p", "q"], [7, 11], [[7], [11]]),
    ],
)
def test_rounds_share_a_common_pool_and_have_their_own_to_themselves(prompts, per_round, shares):
    config = recipe(prompts, per_round)
    assert [pool_shares(config, 11, rounds, path) for path, rounds in pools(config)] == shares


@pytest.mark.parametrize(
    ("prompts", "per_round", "available", "said"),
    [
        ("p", 6, 11, "holds 11 prompts; allowed: at least 12 for 2 rounds,"),
        ("p", [8, 4], 11, "holds 11 prompts; allowed: at least 12 for 2 rounds,"),
        ("p", None, 1, "holds 1 prompts; allowed: at least 2 for 2 rounds,"),
        (["p", "q"], [3, 12], 11, "q: holds 11 prompts; allowed: at least 12 for round 2, or a smaller"),
    ],
)
def test_a_pool_that_is_too_small_is_named_with_the_rounds_that_need_it(prompts, per_round, available, said):
    config = recipe(prompts, per_round)
    with pytest.raises(InputError, match=said):
        for path, rounds in pools(config):
            pool_shares(config, available, rounds, path)


def test_without_rounds_nothing_is_taken_from_a_pool():
    config = recipe("p", None, rounds=0)
    assert [pool_shares(config, 11, rounds, path) for path, rounds in pools(config)] == [[]]


@pytest.mark.parametrize("own", [False, True])
def test_no_two_rounds_see_the_same_prompt_of_a_pool(tmp_path, own):
    files = [tmp_path / f"{name}.jsonl" for name in "pq"]
    for file in files:
        file.write_text("".join(json.dumps({"prompt": f"{file.stem} {row}"}) + "\n" for row in range(11)))
    config = recipe([str(file) for file in files] if own else str(files[0]), [7, 4])
    rounds = [[prompt[0]["content"] for prompt in round_prompts(config, number)["prompt"]] for number in (1, 2)]
    assert [len(prompts) for prompts in rounds] == [7, 4]
    assert len({*rounds[0], *rounds[1]}) == 11
    assert {prompt[0] for prompt in rounds[1]} == ({"q"} if own else {"p"})
