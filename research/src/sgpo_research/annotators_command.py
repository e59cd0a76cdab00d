"""The command `sgpo-study annotators`: which annotator orders held-out pairs, before any round is run."""

import argparse
from pathlib import Path


def annotators_parser() -> argparse.ArgumentParser:
    """Its arguments."""
    about = "How the annotators that seed pairs can buy order held-out pairs."
    parser = argparse.ArgumentParser(prog="sgpo-study annotators", description=about)
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run directory with a finished round 0")
    parser.add_argument("--pairs", required=True, metavar="FILE", help="held-out pairs, with a column `types` if any")
    parser.add_argument("--seeds", metavar="FILE", help="pairs whose `types` were seen; default: the recipe's seeds")
    parser.add_argument("--round", type=int, default=0, metavar="N", help="round of the implicit reward; default: 0")
    parser.add_argument("--penalty", type=float, default=0.5, metavar="L",
                        help="standard deviations that heads subtract; default: %(default)s")  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of annotators.json and .md")
    return parser


def run_annotators(arguments: argparse.Namespace) -> None:
    """Computes, writes and prints the diagnosis."""
    from rich.console import Console
    from rich.markdown import Markdown

    from sgpo.store.files import write_atomically, write_json
    from sgpo_research.annotators import as_markdown, diagnose

    found = diagnose(
        arguments.run, arguments.pairs, seeds=arguments.seeds, number=arguments.round, penalty=arguments.penalty
    )
    write_json(arguments.output / "annotators.json", found)
    write_atomically(arguments.output / "annotators.md", as_markdown(found))
    Console().print(Markdown(as_markdown(found)))
