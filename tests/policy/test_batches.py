import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sgpo.policy.batches import fill_in_batches

lengths = st.lists(st.integers(1, 40), max_size=60)


def batches_of(lengths, batch_tokens, ties=None):
    """The positions of each batch, in the order in which they are computed."""
    batches = []

    def compute(batch):
        batches.append(batch)
        return np.zeros(len(batch))

    places = range(len(lengths))
    fill_in_batches(np.zeros(len(lengths)), places, compute, lengths, batch_tokens=batch_tokens, ties=ties)
    return batches


@given(lengths, st.integers(1, 200))
def test_every_position_is_in_one_batch_within_the_bound_and_the_longest_come_first(lengths, batch_tokens):
    batches = batches_of(lengths, batch_tokens)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    in_order = [lengths[place] for batch in batches for place in batch]
    assert in_order == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[0]] <= batch_tokens for batch in batches)
    # One more sequence would not fit.
    assert all((len(batch) + 1) * lengths[batch[0]] > batch_tokens for batch in batches[:-1])


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30))
def test_equal_lengths_are_ordered_by_ties_and_then_by_position(rows):
    lengths, ties = [length for length, _ in rows], [tie for _, tie in rows]
    found = [place for batch in batches_of(lengths, 5, ties) for place in batch]
    assert found == sorted(range(len(rows)), key=lambda place: (-lengths[place], -ties[place], place))


@given(lengths)
def test_values_return_to_the_positions_of_their_rows(lengths):
    out, counts = np.zeros(len(lengths)), []
    rows = [length * 10.0 for length in lengths]
    fill_in_batches(out, rows, lambda batch: np.array(batch) + 1, lengths, batch_tokens=50, progress=counts.append)
    assert out.tolist() == [row + 1 for row in rows]
    assert sum(counts) == len(lengths)
