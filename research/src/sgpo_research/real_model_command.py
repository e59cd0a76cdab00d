"""`sgpo-study real-model`: methods with a real language model, and the table of their gold."""

import argparse
from pathlib import Path

from sgpo.store.hub import settle_hub_access


def real_model_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo-study real-model",
        description="Runs methods on the files of `sgpo-study requests` and evaluates every policy on test prompts; "
        "an interrupted run resumes. Several calls with other seeds or labels may share --output.",
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="folder or Hub id of the SFT model")
    parser.add_argument("--world", required=True, type=Path, metavar="DIR", help="output of `sgpo-study requests`")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="for runs and results; resumes there")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=["clean"],
        metavar="NAME",
        help="the world's folders, less the seed; default: clean",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="data seeds; default: 0")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: SSAPO 'iterative DPO'")
    parser.add_argument("--config", required=True, metavar="FILE", help="the recipe that all methods share")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of its keys")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="processes that share data seeds and labels, one thread and one model in memory each; what a process says "
        "is in LABELS-SEED.log; default: 1",
    )  # fmt: skip
    parser.add_argument("--rows", action="store_true", help="run nothing; show what is done")
    return parser


def run_real_model(arguments: argparse.Namespace) -> None:
    """Runs what is missing, and prints a table of all that is done."""
    settle_hub_access([arguments.model])
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table

    from sgpo.config.read import read_recipe
    from sgpo.errors import InputError, check_whole
    from sgpo.store.progress import Reporter, hide_other_bars
    from sgpo_research.jobs import side_by_side
    from sgpo_research.real_model import METHODS, Setting, results, run_logged, run_methods
    from sgpo_research.real_model_table import write_results

    hide_other_bars()
    check_whole("--jobs", arguments.jobs, 1)
    methods = arguments.methods or ["SSAPO", "iterative DPO"]
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"--methods has {unknown[0]!r}; allowed: {', '.join(map(repr, METHODS))}.")
    recipe = read_recipe(arguments.config, arguments.set)
    setting = Setting(arguments.model, arguments.world, arguments.output, recipe)
    console = Console()
    if not arguments.rows:
        places = list(dict.fromkeys((labels, seed) for labels in arguments.labels for seed in arguments.seeds))
        for folder in (setting.data(*place) for place in places):
            if not folder.is_dir():
                found = ", ".join(sorted(path.parent.name for path in arguments.world.glob("*/seeds.jsonl"))) or "none"
                raise InputError(f"--world {arguments.world} has no {folder.name}; it has: {found}.")
        calls = [(setting, *place, methods) for place in places]
        if arguments.jobs > 1:
            # No method: the SFT model is evaluated once for all, in a process that then gives its memory back.
            side_by_side(1, run_logged, [(*calls[0][:3], [])])
            reporter = Reporter(console)
            with reporter.stage("runs"), reporter.bar("data seeds", len(calls)) as advance:
                side_by_side(min(arguments.jobs, len(calls)), run_logged, calls, advance)
        else:
            for call in calls:
                run_methods(*call, Reporter(console))
    rows, golds = results(setting)
    if not rows:
        raise InputError(f"--output {arguments.output} holds no results for --world {arguments.world}.")
    shown = Table("labels", "seed", "method", "policy", "kl", "gold", "seen", "unseen")
    for row in rows:
        name = row["policy"] + " (shipped)" * row["shipped"]
        figures = [f"{row[key]:.3f}" for key in ("kl", "gold", "seen", "unseen")]
        shown.add_row(row["labels"], str(row["seed"]), row["method"], name, *figures)
    console.print(shown)
    console.print(Markdown(write_results(arguments.output, rows, golds)))
    console.print(f"Rows, gains and figure: {arguments.output}/", highlight=False)
