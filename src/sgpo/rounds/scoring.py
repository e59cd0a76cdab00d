"""Columns of scores, and of fingerprints that identify the model that gave them."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sgpo.leader.scores import FINGERPRINT_COLUMN
from sgpo.policy.fingerprints import fingerprint_pairs
from sgpo.policy.load import Policy
from sgpo.policy.score import score_pairs
from sgpo.rounds.context import Run


def add_scores(run: Run, pairs: Dataset, policy: Policy, columns: tuple[str, str], *, who: str) -> Dataset:
    """Adds a policy's summed log-probabilities of both responses of N pairs, in nats.

    Args:
        run: supplies `leader.max_length`, at which prompt and response together are cut.
        pairs: columns prompt, chosen, rejected.
        policy: the scoring policy.
        columns: names of the new columns of chosen and rejected; existing columns of these names are replaced.
        who: the policy's name on the progress bar.
    """
    with run.reporter.bar(f"scoring by the {who}", 2 * len(pairs)) as advance:
        scores = score_pairs(policy, pairs, max_length=run.config.leader.max_length, progress=advance)
    pairs = pairs.remove_columns([column for column in columns if column in pairs.column_names])
    for column, logps in zip(columns, (scores.chosen, scores.rejected), strict=True):
        pairs = pairs.add_column(column, logps.tolist())
    return pairs


def add_fingerprints(run: Run, pairs: Dataset, tokenizer: PreTrainedTokenizerBase, policy: str) -> Dataset:
    """Adds the column with the fingerprints of the reference that scored a pair, `policy`, and of the pair's tokens."""
    max_length = run.config.leader.max_length
    return pairs.add_column(FINGERPRINT_COLUMN, fingerprint_pairs(pairs, tokenizer, policy, max_length=max_length))
