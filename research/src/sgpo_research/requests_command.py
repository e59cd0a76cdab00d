"""`sgpo-study requests`: the world of checkable requests, as files for a run."""

import argparse
from pathlib import Path
from typing import Any, get_args

from sgpo.choices import Dtype
from sgpo.store.hub import settle_hub_access
from sgpo_research.worlds.noise import Labels


def requests_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo-study requests",
        description="Writes seeds, held-out pairs, prompts and test prompts whose truth IFEval's checkers decide; a "
        "model's own responses make the pairs. They are sampled once, for all data seeds and labels.",
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="folder or Hub id of the model that answers")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="for samples and data; resumes there")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="data seed; default: 0")
    parser.add_argument(
        "--labels", choices=get_args(Labels), default="clean",
        help="annotator of the seeds: gold, a quarter flipped, types inverted, or the longer response; default: clean",
    )  # fmt: skip
    parser.add_argument("--inverted", nargs="+", default=[], metavar="TYPE", help="types that `inverted` gets wrong")
    for name, default, what in (
        ("seeds", 60, "seed pairs"), ("heldout", 100, "held-out pairs, in gold order"), ("pool", 64, "prompts a round"),
        ("rounds", 3, "rounds"), ("test", 64, "prompts in each of the two test files"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what}; default: {default}")
    parser.add_argument(
        "--sampled", type=int, nargs=2, metavar=("SEEDS", "HELDOUT"),
        help="prompts to sample for seeds and for held-out pairs; default: two for each pair",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32", help="of the model; default: float32")
    parser.add_argument("--batch-size", type=int, default=48, metavar="N", help="rows written at once; default: 48")
    return parser


def run_requests(arguments: argparse.Namespace) -> None:
    """Writes the files, and prints what the model follows."""
    settle_hub_access([arguments.model])
    from rich.console import Console

    from sgpo.policy.fingerprints import fingerprint_policy
    from sgpo.policy.sampling import Generator
    from sgpo.store.progress import Reporter, hide_other_bars
    from sgpo_research.checkable_world import Annotator, WorldSize, write_world

    def open_generator() -> Generator:
        from sgpo.policy.generate import TransformersGenerator
        from sgpo.policy.load import load_policy

        return TransformersGenerator(
            load_policy(arguments.model, dtype=arguments.dtype), batch_size=arguments.batch_size
        )

    hide_other_bars()
    counts = {name: getattr(arguments, name) for name in ("seeds", "heldout", "pool", "rounds", "test")}
    console = Console()
    summary = write_world(
        arguments.output,
        size=WorldSize(**counts, sampled=arguments.sampled and tuple(arguments.sampled)),
        annotator=Annotator(arguments.labels, tuple(arguments.inverted)),
        seed=arguments.seed,
        model=f"{fingerprint_policy(arguments.model)} {arguments.dtype}",
        open_generator=open_generator,
        batch_size=arguments.batch_size,
        reporter=Reporter(console),
    )
    _print_summary(summary, console)


def _print_summary(summary: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    shown = Table("constraint", "group", "prompts", "follows", "mixed")
    for name, rate in summary["types"].items():
        shown.add_row(name, rate["group"], str(rate["prompts"]), f"{rate['follows']:.2f}", f"{rate['mixed']:.2f}")
    console.print(shown)
    console.print(
        f"follows: share of finished responses; mixed: share of prompts on whose responses the type's outcome differs. "
        f"{summary['cut']:.0%} of all responses were cut and make no pair.",
        highlight=False,
    )
    for name, found in summary["pairs"].items():
        console.print(
            f"{name}: {found['pairs']} pairs, {found['against_gold']:.0%} against gold, chosen is longer in "
            f"{found['chosen_longer']:.0%}", highlight=False,
        )  # fmt: skip
    console.print(f"Files: {summary['folder']}/", highlight=False)
