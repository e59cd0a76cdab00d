"""Scores of human pairs, and the fingerprints that say whose scores a pair carries."""

from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sgpo.leader.scores import FINGERPRINT_COLUMN
from sgpo.policy.fingerprints import fingerprint_pairs, fingerprint_template, fingerprint_tokenizer
from sgpo.policy.load import Policy
from sgpo.policy.score import score_responses
from sgpo.store.progress import Reporter


def score_pairs(
    pairs: Dataset, policy: Policy, columns: tuple[str, str], *, max_length: int, who: str, reporter: Reporter
) -> Dataset:
    """Adds a policy's summed log-probabilities of both responses of N pairs, in nats.

    Args:
        pairs: columns prompt, chosen, rejected.
        policy: who scores.
        columns: names of the two new columns; columns of these names are replaced.
        max_length: tokens at which prompt and response together are cut.
        who: the policy's name on the progress bar.
        reporter: where progress is shown.
    """
    prompts = pairs["prompt"][:]
    texts = [row[0]["content"] for side in ("chosen", "rejected") for row in pairs[side]]
    with reporter.bar(f"scoring by the {who}", len(texts)) as advance:
        logps = score_responses(policy, prompts * 2, texts, max_length=max_length, progress=advance).logps
    pairs = pairs.remove_columns([column for column in columns if column in pairs.column_names])
    for column, values in zip(columns, (logps[: len(pairs)], logps[len(pairs) :]), strict=True):
        pairs = pairs.add_column(column, values.tolist())
    return pairs


def add_fingerprints(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, policy: str, *, max_length: int) -> Dataset:
    """Adds the column that says which reference, by its fingerprint, scored a pair on which tokens."""
    return pairs.add_column(FINGERPRINT_COLUMN, fingerprint_pairs(pairs, tokenizer, policy, max_length=max_length))


def score_origin(policy: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """What scores were made with: fingerprints of model, tokenizer and chat template, and where scoring cut."""
    return {
        "model": policy,
        "tokenizer": fingerprint_tokenizer(tokenizer),
        "template": fingerprint_template(tokenizer),
        "max_length": max_length,
    }
