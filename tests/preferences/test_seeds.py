import numpy as np
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refusals import unrefused
from sgpo.preferences.layout import prompt_key, to_pairs
from sgpo.preferences.split import hold_out, select_seeds


def make_pairs(prompts):
    rows = [{"prompt": f"{name}?", "chosen": "a", "rejected": "b", "id": i} for i, name in enumerate(prompts)]
    return to_pairs(Dataset.from_list(rows), "pairs")


PAIRS = make_pairs(range(40))


def test_seeds_are_distinct_pairs_in_their_order():
    ids = select_seeds(PAIRS, 15, 3)["id"][:]
    assert len(ids) == 15
    assert ids == sorted(set(ids))


def test_a_smaller_choice_is_part_of_a_larger_one():
    assert set(select_seeds(PAIRS, 5, 3)["id"]) < set(select_seeds(PAIRS, 20, 3)["id"])


def test_the_seed_decides_the_choice():
    assert select_seeds(PAIRS, 10, 3)["id"][:] == select_seeds(PAIRS, 10, 3)["id"][:]
    assert select_seeds(PAIRS, 10, 3)["id"][:] != select_seeds(PAIRS, 10, 4)["id"][:]


def test_every_pair_is_chosen_equally_often():
    counts = np.zeros(40)
    for seed in range(400):
        counts[select_seeds(PAIRS, 10, seed)["id"][:]] += 1
    # Each count is binomial(400, 1/4): mean 100, standard deviation 8.7.
    assert np.abs(counts - 100).max() < 4 * 8.7


def test_sizes_and_seeds_out_of_range_are_refused():
    sizes = [((size, 0), f"the number of seed pairs is {size}; allowed: 1 to 40") for size in (0, 41, -1)]
    assert unrefused(lambda case: select_seeds(PAIRS, *case), [*sizes, ((1, -1), "seed is -1")]) == {}


@settings(deadline=None, max_examples=40)
@given(
    names=st.lists(st.sampled_from([*range(5), "why not", "WHY not", " why\tnot", "how"]), min_size=2, max_size=25),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_held_out_pairs_share_no_prompt_with_the_rest_and_none_is_lost(names, share, seed):
    """Prompts that differ in white space and case only are one."""
    distinct = len({" ".join(str(name).lower().split()) for name in names})
    assume(distinct > 1)
    train, held_out = hold_out(make_pairs(names), share, seed)
    train_keys, held_keys = (set(map(prompt_key, part["prompt"])) for part in (train, held_out))
    assert train_keys and held_keys
    assert not train_keys & held_keys
    assert sorted([*train["id"], *held_out["id"]]) == list(range(len(names)))
    assert len(held_keys) == min(max(round(share * distinct), 1), distinct - 1)


def test_what_cannot_be_held_out_is_refused():
    shares = (0.0, 1.0, -0.1, float("nan"))
    cases = [
        ((PAIRS, share, 0), rf"the share to hold out is {share}; allowed: a number in \(0, 1\)") for share in shares
    ]
    cases += [
        ((PAIRS, 0.5, -1), "seed is -1"),
        ((make_pairs(["Why", "why", " WHY"]), 0.5, 0), "all pairs share one prompt"),
    ]
    assert unrefused(lambda case: hold_out(*case), cases) == {}
