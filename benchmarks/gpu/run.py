"""What a data-centre GPU should be asked in ten minutes, in order of worth: one table per step, all in one folder.

    python benchmarks/gpu/run.py --output gpu --budget 600 --model models/smollm2 --world world
    python benchmarks/gpu/run.py --output gpu --budget 600 --gguf SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/gpu/run.py --output gpu --budget 120 --device cpu --small      # the smallest form

Steps: the tests marked `cuda`; the loop on a real model, method by method, for all data seeds and labels of --world at
once (one process of a small model leaves a card idle), or in a world made for it first; the follower at 10^7 and 10^8
gaps; the leader's ratios with a random Llama of 1B parameters, bfloat16 and 1,024 tokens; writing, scoring and training
with the real model. Each is a process of its own, whose limit is what the budget leaves once the
later steps have their shares; what a step does not need goes to the next. One that fails or runs out of time is named,
and the next one runs. The folder gets a log per step, `summary.json` and `summary.md` with the tables, the device and
the versions; both are rewritten after every step.

Needs neither a network nor an installed sgpo, only the packages that it imports. Without --model and --gguf, the model
is fetched by examples/smollm2.py, or, in the smallest form, is the demo's.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from sgpo.serving.watch import end_group

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy")
CONVERT = (
    "import pathlib, sys; from sgpo.policy.gguf import GGUFFile; folder, name, output = sys.argv[1:]; "
    "GGUFFile(folder, name, 'float32').save(pathlib.Path(output))"
)
CARD = (
    "import torch; card = torch.cuda.get_device_properties(0); print(card.name, f'{card.total_memory / 2**30:.0f} GiB')"
)
STUDY = ["-c", "from sgpo_research.command import main; raise SystemExit(main())"]
# The demo's world, as small as a run can be: it trains its own model.
SMALL_WORLD = [
    "rounds=1", "world.seed_pairs=24", "world.heldout_pairs=8", "world.pool_prompts=12", "world.test_prompts=8",
    "world.sft_examples=160", "world.hidden=32", "generation.max_new_tokens=16", "generation.stop=[e]",
    "leader.seed_epochs=1",
]  # fmt: skip
_GRACE, _AT_ONCE = 10, 12


@dataclass
class Step:
    """A step: its command, the share of the budget that it is promised, and once it has run, how it ended."""

    name: str
    command: list[str]
    share: float
    status: str = "not reached"
    seconds: float = 0.0
    limit: float = 0.0

    def tables(self, folder: Path) -> str:
        """The headings and tables that it has printed; the end of its output if there are none, or it is not done."""
        log = folder / f"{self.name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        shown: list[str] = []
        for line in lines:
            if re.match(r"[|`]|\d+ (passed|skipped|failed)", line):
                shown.append(line)
            elif shown and shown[-1]:
                shown.append("")
        if lines and (not shown or self.status != "done"):
            shown += ["```", *lines[-40:], "```"]
        return "\n".join(shown)


def test_step(arguments: argparse.Namespace) -> Step:
    """The tests marked for CUDA, found by their mark: collecting the whole suite would take longer than they do."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    words = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *map(str, files)]
    return Step("tests", words, 0.1)


def world_step(arguments: argparse.Namespace) -> Step | None:
    """The world of checkable requests, from the model's own responses; the demo's world is part of its run."""
    if arguments.small or arguments.world:
        return None
    counts = sizes({"batch-size": 768, "seeds": 240, "heldout": 100, "pool": 48, "test": 96})
    words = ["requests", *model_and_output(arguments, "world"), "--dtype", "bfloat16", *counts]
    return Step("world", [*STUDY, *words], 0.15)


def loop_step(arguments: argparse.Namespace) -> Step:
    """The real model through the loop, method by method: those that the time allows, the first ones first."""
    if arguments.small:
        words = [str(ROOT / "recipes/tiny.yaml"), f"output={arguments.runs / 'loop'}", *SMALL_WORLD]
        return Step("loop", ["-m", "sgpo", "run", "--config", *words], 0.4)
    methods = ["--methods", "SSAPO", "iterative DPO", "cDPO", "SPA"]
    return Step("loop", [*real_model_study(arguments), *methods], 0.4)


def loop_table_step(arguments: argparse.Namespace) -> Step | None:
    """The table of what the loop has finished, whether or not it ran out of time."""
    return None if arguments.small else Step("loop_table", [*real_model_study(arguments), "--rows"], 0.05)


def real_model_study(arguments: argparse.Namespace) -> list[str]:
    recipe = ["--config", str(ROOT / "recipes/smollm2-135m.yaml"), "--set", "model.dtype=bfloat16"]
    recipe += ["generation.batch_size=768", "leader.micro_batch_size=8"]
    world = ["--world", str(arguments.world or arguments.runs / "world")]
    if arguments.world:
        labels, seeds = places_of(arguments.world)
        jobs = min(len(labels) * len(seeds), _AT_ONCE)
        world += ["--labels", *labels, "--seeds", *seeds, "--jobs", str(jobs)]
    return [*STUDY, "real-model", *model_and_output(arguments, "loop"), *world, *recipe]


def places_of(world: Path) -> tuple[list[str], list[str]]:
    """Labels and data seeds of a world: the folders of `sgpo-study requests` are LABELS-SEED.

    Raises:
        ValueError: there are none, or not one for each of these labels with each of these seeds.
    """
    names = {path.parent.name for path in world.glob("*-*/seeds.jsonl")}
    labels, seeds = (sorted({name.rpartition("-")[place] for name in names}) for place in (0, 2))
    missing = sorted({f"{one}-{seed}" for one in labels for seed in seeds} - names)
    if missing or not names:
        found = f"has {', '.join(sorted(names))} and not {missing[0]}" if names else "has no folder LABELS-SEED"
        raise ValueError(f"--world {world} {found}; allowed: a folder for each of its labels with each of its seeds")
    return labels, seeds


def model_and_output(arguments: argparse.Namespace, name: str) -> list[str]:
    return ["--model", str(arguments.model), "--output", str(arguments.runs / name)]


def sizes(counts: dict[str, int]) -> list[str]:
    return [word for name, count in counts.items() for word in (f"--{name}", str(count))]


def follower_step(arguments: argparse.Namespace) -> Step:
    sizes = ["1000", "10000"] if arguments.small else ["10000000", "100000000"]
    words = ["--device", arguments.device, "--device-only", "--references", "0", "--sizes", *sizes]
    return Step("follower", [str(ROOT / "benchmarks/follower.py"), *words], 0.1)


def leader_step(arguments: argparse.Namespace) -> Step:
    words = ["--device", arguments.device, "--modes", "SGPO envelope"]
    words += ["--blocks", "1", "--steps", "2", "--no-memory"] if arguments.small else [
        "SGPO envelope, stored", "--blocks", "2", "--steps", "6"
    ]  # fmt: skip
    return Step("leader", [str(ROOT / "benchmarks/leader.py"), *words], 0.2)


def real_model_step(arguments: argparse.Namespace) -> Step:
    model = arguments.model or arguments.runs / "loop/world/sft"
    words = ["--model", str(model), "--device", arguments.device, "--no-memory"]
    if arguments.small:
        words += ["--count", "2", "--max-new-tokens", "4", "--pairs", "1", "--steps", "2", "--repeats", "1"]
    else:
        words += ["--dtype", "bfloat16", "--count", "48", "--batch-size", "96", "--max-new-tokens", "128"]
    return Step("real_model", [str(ROOT / "benchmarks/real_model.py"), *words], 0.1)


STEPS = (test_step, world_step, loop_step, loop_table_step, follower_step, leader_step, real_model_step)
_WITH_MODEL = (world_step, loop_step, loop_table_step, real_model_step)


def model_step(arguments: argparse.Namespace) -> Step | None:
    """Gets the model folder, where a step needs it; in the smallest form the demo's own model is used."""
    needed = arguments.steps is None or any(
        make.__name__.removesuffix("_step") in arguments.steps for make in _WITH_MODEL
    )
    if not needed or arguments.model is not None or (arguments.small and arguments.gguf is None):
        return None
    arguments.model = arguments.runs / "model"
    if arguments.gguf is None:
        return Step("model", [str(ROOT / "examples/smollm2.py"), "--output", str(arguments.model)], 0.0)
    words = ["-c", CONVERT, str(arguments.gguf.parent), arguments.gguf.name, str(arguments.model)]
    return Step("model", words, 0.0)


def run_step(step: Step, folder: Path, limit: float) -> None:
    """Runs a step for at most `limit` seconds, with sgpo and its study from this tree; ends all that it started."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "research/src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    start, step.limit = time.monotonic(), limit
    with open(folder / f"{step.name}.log", "wb") as log:
        words = [sys.executable, *step.command]
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(limit)
            step.status = "done" if code == 0 else f"failed with code {code}"
        except subprocess.TimeoutExpired:
            step.status = f"out of time after {limit:.0f} s"
        finally:
            end_group(process.pid, _GRACE, reap=process.poll)
            process.wait()
    step.seconds = time.monotonic() - start


def describe(device: str) -> dict[str, str]:
    """The device's name, and the versions of what runs on it."""
    if device == "cuda":
        asked = subprocess.run([sys.executable, "-c", CARD], capture_output=True, text=True)
        name = asked.stdout.strip() or f"no CUDA device ({asked.stderr.strip().splitlines()[-1:]})"
    else:
        name = f"CPU, {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    return {"device": name, "python": platform.python_version(), **dict(versions())}


def versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "missing"


def write_summary(folder: Path, about: dict[str, str], steps: list[Step]) -> None:
    """Replaces both summaries: what has been measured so far is kept, whatever ends this process."""
    rows = [{**asdict(step), "command": ["python", *step.command]} for step in steps]
    (folder / "summary.json").write_text(json.dumps({**about, "steps": rows}, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# {about['device']}",
        "",
        ", ".join(f"{name} {what}" for name, what in about.items() if name != "device"),
    ]
    lines += ["", "| step | ended | seconds | limit |", "| -- | -- | -- | -- |"]
    lines += [f"| {one.name} | {one.status} | {one.seconds:.0f} | {one.limit:.0f} |" for one in steps]
    for step in steps:
        lines += ["", f"## {step.name}", "", step.tables(folder)]
    (folder / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for logs and tables")
    parser.add_argument("--budget", type=float, default=600, help="seconds for everything")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="the smallest form of every step")
    parser.add_argument("--model", type=Path, help="folder of the real model")
    parser.add_argument("--world", type=Path, help="folder of `sgpo-study requests`; default: one seed, made first")
    parser.add_argument("--gguf", type=Path, help="GGUF file of it, converted first")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/gpu", help="folder for the run and the model")
    parser.add_argument("--steps", nargs="+", choices=[step.__name__.removesuffix("_step") for step in STEPS])
    arguments = parser.parse_args(argv)
    if not arguments.budget > 0:
        parser.error(f"--budget is {arguments.budget}; allowed: seconds > 0")
    for name in ("model", "gguf", "world"):
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            parser.error(f"--{name} {path} does not exist")
    if arguments.world is not None:
        if arguments.small:
            parser.error("--world is given with --small, whose loop makes its own; leave one of them out")
        try:
            places_of(arguments.world)
        except ValueError as error:
            parser.error(str(error))
    for name in ("output", "runs", "model", "gguf", "world"):
        path = getattr(arguments, name)
        setattr(arguments, name, path and path.absolute())
    return arguments


def main(argv: list[str] | None = None) -> int:
    start, arguments = time.monotonic(), parse(argv)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        # The tests hide the devices unless they are named.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    arguments.output.mkdir(parents=True, exist_ok=True)
    first = model_step(arguments)
    wanted = [
        make for make in STEPS if arguments.steps is None or make.__name__.removesuffix("_step") in arguments.steps
    ]
    steps = [step for step in (first, *(make(arguments) for make in wanted)) if step is not None]
    about = describe(arguments.device)
    for place, step in enumerate(steps):
        later = sum(one.share for one in steps[place + 1 :]) * arguments.budget
        left = arguments.budget - (time.monotonic() - start)
        run_step(step, arguments.output, max(left - later, min(left, step.share * arguments.budget), 1.0))
        write_summary(arguments.output, about, steps)
        print(f"{step.name}: {step.status}, {step.seconds:.0f} s", flush=True)
    print(f"tables: {arguments.output / 'summary.md'}")
    return 0 if all(step.status == "done" for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
