"""The command `sgpo split`: arguments to calls, and a table of what was written."""

import argparse
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from sgpo.cli.flags import add_flags, build, flag_of, given
from sgpo.config import ModelConfig, SplitConfig
from sgpo.errors import InputError
from sgpo.store.hub import settle_hub_access


def split(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    arguments = _parser().parse_args(argv)
    sources = [{**_parse_source(text), "split": arguments.split} for text in arguments.sources]
    settings = build(arguments, SplitConfig, pools=[], sources=sources)
    if (settings.selection == "farthest") != (arguments.model is not None):
        raise InputError(
            f"--selection is {settings.selection} {'with' if arguments.model else 'without'} --model; allowed: "
            "farthest with --model, or random without."
        )
    model = build(arguments, ModelConfig, path=arguments.model)
    if model.path is None and (flags := given(arguments, ModelConfig)):
        raise InputError(f"{flag_of(next(iter(flags)))} goes with --model, which is missing.")
    settle_hub_access([*(source.path for source in settings.sources), arguments.model])

    from rich.console import Console

    from sgpo.policy.generators import as_folder, load_model
    from sgpo.preferences.split_files import check_new_folder, draw_split
    from sgpo.store.progress import Reporter, hide_other_bars

    hide_other_bars()
    check_new_folder(arguments.output)
    reporter = Reporter(Console())
    with reporter.stage("split"):
        written = draw_split(
            settings,
            arguments.output,
            seed=arguments.seed,
            load=lambda: load_model(as_folder(model)),
            reporter=reporter,
            notes={"model": arguments.model} if arguments.model else None,
        )
    _show(written, arguments.output, Console())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo split", description="Draws seeds, pools of prompts and held-out pairs that share no prompt."
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE[=WEIGHT]", help="Preference pairs: file, folder, Hub id.")
    parser.add_argument("--split", metavar="NAME", help="Split of the sources. Default: train.")
    add_flags(parser, SplitConfig, ("seeds", "pools", "heldout", "selection", "max_prompt_chars"))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="New or empty folder to write.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Random seed. Default: 0.")
    parser.add_argument("--model", metavar="PATH", help="SFT model in whose hidden states farthest seeds are found.")
    add_flags(parser, ModelConfig, ["gguf_file", "dtype"])
    return parser


def _parse_source(text: str) -> dict[str, Any]:
    """SOURCE=WEIGHT, unless all of it is a path, or what follows the last = is no number."""
    path, equals, weight = text.rpartition("=")
    if equals and path and not Path(text).exists():
        with suppress(ValueError):
            return {"path": path, "weight": float(weight)}
    return {"path": text}


def _show(content: dict[str, Any], folder: Path, console: Any) -> None:
    from rich.table import Table

    from sgpo.preferences.layout import describe_counts

    table = Table("file", "rows", "SHA-256 of the rows", box=None)
    table.columns[1].justify = "right"
    for name, file in content["files"].items():
        table.add_row(name, f"{file['rows']:,}", file["sha256"][:16])
    console.print(table)
    dropped = sum((Counter(source["dropped"]) for source in content["sources"]), Counter())
    lines = [f"Dropped: {describe_counts(dropped)}. Not used: {content['unused']:,}."]
    if len(content["sources"]) > 1:
        taken = (f"{source['taken']:,} of {source['path']}" for source in content["sources"])
        lines.append(f"Mixed: {', '.join(taken)}.")
    if content["left_out_columns"]:
        lines.append(f"Columns of different types, left out: {', '.join(content['left_out_columns'])}.")
    if content["coverage_radius"] is not None:
        lines.append(f"Coverage radius: {content['coverage_radius']:.4f} (cosine distance).")
    for line in (*lines, f"Written: {folder}"):
        console.print(line, highlight=False, markup=False)
