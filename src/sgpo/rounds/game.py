"""The game of a round: the pairs that follower and leader see, and the settings that both use."""

from typing import Any

from datasets import Dataset

from sgpo.config import RunConfig
from sgpo.errors import InputError
from sgpo.leader.scores import FINGERPRINT_COLUMN, POLICY_COLUMNS, REFERENCE_COLUMNS
from sgpo.policy.load import load_tokenizer
from sgpo.rounds.context import Run
from sgpo.rounds.scoring import add_fingerprints
from sgpo.rounds.seeds import SEEDS


def leader_settings(
    config: RunConfig, number: int, radius: float, *, seed: int = 0, processes: int = 1
) -> dict[str, Any]:
    """SGPOConfig's arguments for a round; round 0 is DPO on the seeds (Algorithm 1, line 1).

    Args:
        config: the recipe.
        number: of the round.
        radius: of the follower.
        seed: of the training.
        processes: that share a batch.

    Raises:
        InputError: the processes do not divide the batch.
    """
    leader, follower, seeds_only = config.leader, config.follower, number == 0
    if leader.batch_size % (leader.micro_batch_size * processes):
        raise InputError(
            f"leader.batch_size is {leader.batch_size}; allowed: a multiple of leader.micro_batch_size times the "
            f"number of processes ({leader.micro_batch_size} x {processes})."
        )
    settings = {
        "beta": leader.beta,
        "learning_rate": (seeds_only and leader.seed_learning_rate) or leader.learning_rate,
        "num_train_epochs": leader.seed_epochs if seeds_only else leader.epochs,
        "per_device_train_batch_size": leader.micro_batch_size,
        "gradient_accumulation_steps": leader.batch_size // (leader.micro_batch_size * processes),
        "max_length": leader.max_length,
        "lr_scheduler_type": leader.lr_scheduler,
        "warmup_steps": leader.warmup_share,
        "bf16": config.model.dtype == "bfloat16",
        "fp16": config.model.dtype == "float16",
        "seed": seed,
    }
    if seeds_only:
        return {**settings, "radius": 0.0}
    return {
        **settings,
        **follower.model_dump(mode="json", exclude={"radius_factor", "radius_grid"}),
        "radius": radius,
        "tangents": follower.tangents or 0,
        "step": leader.step,
        "proximal": leader.proximal,
    }


def round_settings(run: Run, number: int, radius: float) -> dict[str, Any]:
    """`leader_settings` of a round of this run, with the fingerprint of the reference that its pairs must carry."""
    seed = run.stages.seed(f"round-{number}/policy")
    settings = leader_settings(run.config, number, radius, seed=seed, processes=run.stages.processes.count)
    return {**settings, "reference_fingerprint": _reference_fingerprint(run, number)}


def round_pairs(run: Run, number: int) -> Dataset:
    """The pairs of a round with the scores of the reference that the recipe names; the seeds in round 0."""
    pairs = run.load(f"round-{number}/pairs" if number else SEEDS)
    if number == 0 or run.config.reference == "sft":
        return pairs
    # The reference is the policy that the round starts from, and it has scored these pairs.
    pairs = pairs.remove_columns([*REFERENCE_COLUMNS, FINGERPRINT_COLUMN])
    for own, reference in zip(POLICY_COLUMNS, REFERENCE_COLUMNS, strict=True):
        pairs = pairs.add_column(reference, pairs[own][:])
    trust = run.config.model.trust_remote_code
    tokenizer = load_tokenizer(run.policies.path(number - 1), trust_remote_code=trust)
    return add_fingerprints(run, pairs, tokenizer, _reference_fingerprint(run, number))


def _reference_fingerprint(run: Run, number: int) -> str:
    if number and run.config.reference == "previous":
        return run.policies.fingerprint(number - 1)
    # The model that scored the seeds is the reference of the whole run, whatever is at its path now.
    return run.load(SEEDS)[0][FINGERPRINT_COLUMN].partition(":")[0]
