"""Batches of sequences of like length."""

from collections.abc import Iterator, Sequence


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Places of the sequences batch by batch, longest first, so that a batch that does not fit in memory fails at once.

    Args:
        lengths: tokens of each sequence, >= 1.
        batch_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    done = 0
    while done < len(order):
        size = max(1, batch_tokens // lengths[order[done]])
        yield order[done : done + size]
        done += size
