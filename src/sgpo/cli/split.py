"""The command `sgpo split`: arguments to calls, and a table of what was written."""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo.errors import InputError

if TYPE_CHECKING:
    from sgpo.preferences.mix import MixedSource


def add_split(commands: Any) -> None:
    """Adds the command to the parsers of `sgpo`."""
    split = commands.add_parser("split", help="seeds, pools of prompts and held-out pairs that share no prompt")
    split.add_argument("sources", nargs="+", metavar="SOURCE[=WEIGHT]", help="preference pairs: file, folder or Hub id")
    split.add_argument("--split", metavar="NAME", help="which split of the sources; default: train")
    split.add_argument("--seeds", type=int, required=True, metavar="N", help="number of seed pairs")
    split.add_argument("--pools", type=int, nargs="*", default=[], metavar="N", help="prompts of each round")
    split.add_argument("--heldout", type=int, default=0, metavar="N", help="number of held-out pairs; default: 0")
    split.add_argument("--output", required=True, metavar="DIR", help="folder to write; it must not exist, or be empty")
    split.add_argument("--seed", type=int, default=0, help="seed of everything random; default: 0")
    split.add_argument("--selection", choices=["random", "farthest"], default="random", help="default: random")
    split.add_argument("--model", metavar="PATH", help="SFT model in whose hidden states the farthest seeds are found")
    split.add_argument("--dtype", default="auto", help="of that model: float32, bfloat16, float16; default: as saved")
    split.add_argument("--max-prompt-chars", type=int, metavar="N", help="leave out prompts with more characters")
    split.set_defaults(call=run_split)


def run_split(arguments: argparse.Namespace) -> int:
    """Runs the command. Returns 0.

    Raises:
        InputError: see `mix_pairs`, `split_pairs`, `write_split`.
    """
    from sgpo.store.hub import settle_hub_access

    sources = [_parse_source(text) for text in arguments.sources]
    if (arguments.selection == "farthest") != (arguments.model is not None):
        raise InputError(
            f"--selection is {arguments.selection} {'with' if arguments.model else 'without'} --model; allowed: "
            "farthest with --model, or random without."
        )
    settle_hub_access([*(path for path, _ in sources), arguments.model])

    import datasets
    import transformers
    from rich.console import Console

    from sgpo.preferences.mix import MixedSource
    from sgpo.preferences.split_files import check_new_folder

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    check_new_folder(arguments.output)
    mixed = [MixedSource(path, weight, arguments.split) for path, weight in sources]
    _show(_write(arguments, mixed, Console()), arguments.output, Console())
    return 0


def _parse_source(text: str) -> tuple[str, float]:
    """SOURCE=WEIGHT, unless all of it is a path, or what follows the last = is no number."""
    path, equals, weight = text.rpartition("=")
    if equals and path and not Path(text).exists():
        try:
            return path, float(weight)
        except ValueError:
            pass
    return text, 1.0


def _write(arguments: argparse.Namespace, sources: "list[MixedSource]", console: Any) -> dict[str, Any]:
    from sgpo.preferences.mix import mix_pairs
    from sgpo.preferences.split import split_pairs
    from sgpo.preferences.split_files import write_split
    from sgpo.store.progress import Reporter

    reporter = Reporter(console)
    sizes = {"seeds": arguments.seeds, "pools": arguments.pools, "heldout": arguments.heldout}
    wanted = max(arguments.seeds + sum(arguments.pools) + arguments.heldout, 1)
    with reporter.stage("reading"):
        mixture = mix_pairs(sources, least=wanted, seed=arguments.seed, max_prompt_chars=arguments.max_prompt_chars)
    notes = mixture.describe()
    if arguments.selection == "random":
        split = split_pairs(mixture.pairs, **sizes, seed=arguments.seed)
        return write_split(split, arguments.output, notes=notes)

    from sgpo.policy.embed import embed_prompts
    from sgpo.policy.load import load_policy

    policy = load_policy(arguments.model, dtype=arguments.dtype)
    place = Path(arguments.output).absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sgpo-split-", dir=place) as scratch:
        file = Path(scratch) / "embeddings.npy"
        with reporter.stage("embedding prompts"), reporter.bar("prompts", len(mixture.pairs)) as advance:
            embeddings = embed_prompts(policy, mixture.pairs["prompt"], progress=advance, out=file)
        with reporter.stage("farthest points"), reporter.bar("seeds", arguments.seeds) as advance:
            split = split_pairs(
                mixture.pairs,
                **sizes,
                seed=arguments.seed,
                selection="farthest",
                embeddings=embeddings,
                device=str(policy.device),
                progress=advance,
            )
    return write_split(split, arguments.output, notes={**notes, "model": arguments.model})


def _show(content: dict[str, Any], folder: str, console: Any) -> None:
    from rich.table import Table

    from sgpo.preferences.layout import describe_counts

    table = Table("file", "rows", "SHA-256 of the rows", box=None)
    table.columns[1].justify = "right"
    for name, file in content["files"].items():
        table.add_row(name, f"{file['rows']:,}", file["sha256"][:16])
    console.print(table)
    dropped: Counter[str] = Counter()
    for source in content["sources"]:
        dropped.update(source["dropped"])
    lines = [f"Dropped: {describe_counts(dropped)}. Not used: {content['unused']:,}."]
    if len(content["sources"]) > 1:
        taken = ", ".join(f"{source['taken']:,} of {source['path']}" for source in content["sources"])
        lines.append(f"Mixed: {taken}.")
    if content["left_out_columns"]:
        lines.append(f"Columns of different types, left out: {', '.join(content['left_out_columns'])}.")
    if content["coverage_radius"] is not None:
        lines.append(f"Coverage radius: {content['coverage_radius']:.4f} (cosine distance).")
    lines.append(f"Written: {folder}")
    for line in lines:
        console.print(line, highlight=False, markup=False)
