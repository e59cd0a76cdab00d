"""Writing, scoring and training with a real model, compared with `model.generate` and TRL, interleaved in one run.

    python examples/smollm2.py --output smollm2
    python benchmarks/real_model.py --model smollm2                            # two cores: about twenty minutes
    python benchmarks/real_model.py --model smollm2 --device cuda --dtype bfloat16
    python benchmarks/real_model.py --model smollm2 --part writing --backend vllm --python .venv-vllm/bin/python

Writing: a backend of sgpo compared with a loop of `model.generate` over batches in the given order, both with the
candidates, temperature and top-p of recipes/smollm2-135m.yaml. Scoring: `score_responses` compared
with the reference log-probabilities of TRL's DPOTrainer, one pass each. Training: SGPOTrainer on pairs that store the
scores, as in a run, compared with TRL's DPOTrainer, which computes the reference's in every step or before the first
one (that pass is not counted). Scored and trained are two written responses to each prompt.

Tokens are those of the responses in writing, and those of prompts and responses in scoring and training. Time is the
wall clock (synchronised on CUDA) with one thread per core, unless OMP_NUM_THREADS says otherwise: run it on an idle
machine. Methods run in turn; speeds are medians over turns, and a ratio is that of two medians. Peak memory is that of
a process that does nothing else: resident on the CPU, the allocator's on CUDA. vLLM has processes of its own: on the
CPU the largest process counts, and on CUDA they are not measured.
"""

import argparse
import json
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["TQDM_DISABLE"] = "1"
# The scripts of this folder that are imported below choose one thread where nothing is said.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

import datasets
import numpy as np
import torch
import transformers
import trl
from annotation import Bench, Conversations
from datasets import Dataset
from measure import resident_peak, run_alone

from leader import Block, run_block
from sgpo.choices import Backend, Dtype
from sgpo.config import GenerationConfig, ModelConfig
from sgpo.config.options import VLLMOptions
from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.generators import open_generator
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.sampling import Generator, Sampling, prompt_seeds
from sgpo.policy.tokens import tokenize_responses
from sgpo.preferences.source import load_prompts

# The first method of each part is the one that the others are compared with; those of training are modes of leader.py.
METHODS = {
    "writing": ("model.generate", "sgpo"),
    "scoring": ("TRL", "sgpo"),
    "training": ("TRL DPOTrainer", "TRL, scores precomputed", "SGPO envelope, stored"),
}
TASKS = (
    "Write a short poem about {}.",
    "Explain to a child what {} is good for, in at most three sentences.",
    "List three facts about {}.",
    "Write the first two sentences of a story that begins with {}, and let nobody in it say a word.",
    "What would a town be without {}? Answer in one paragraph, and give one example from daily life.",
    "Give me a slogan for a museum of {}.",
)
THINGS = ("a bridge", "rain", "a library", "bread", "a night train", "the market", "a lighthouse", "a bicycle")
# A method, ready to run: seconds, and the tokens that it took them for.
Method = Callable[[], tuple[float, float]]


class RealBench(Bench):
    """The methods of annotation.py, by the wall clock; sgpo's responses come from any backend."""

    generator: Generator

    def __init__(self, arguments: argparse.Namespace, *others: Any) -> None:
        super().__init__(arguments, *others)
        self.sampling = Sampling(arguments.candidates, 0.9, arguments.top_p, arguments.max_new_tokens)

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def write_ours(self) -> list[list]:
        return self.generator.generate(self.prompts, prompt_seeds(0, len(self.prompts)), self.sampling)


@contextmanager
def open_backend(arguments: argparse.Namespace) -> Iterator[Generator]:
    """The backend that is asked for, as a recipe opens it; transformers takes the policy that is loaded already."""
    if arguments.backend == "transformers":
        yield TransformersGenerator(policy_of(arguments), batch_size=arguments.batch_size)
        return
    context = json.loads((arguments.model / "config.json").read_text()).get("max_position_embeddings", 2048)
    options = {"dtype": arguments.dtype, "max_model_len": min(context, 2048)}
    if arguments.device == "cpu":
        options |= {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    else:
        # vLLM takes its share of the memory at its start, and this process needs some too.
        options |= {"gpu_memory_utilization": 0.5}
    if arguments.backend == "vllm":
        named = {name: options.pop(name) for name in set(VLLMOptions.model_fields) & set(options)}
        settings = {"vllm": {"python": arguments.python, **named, "engine": options}}
    else:
        words = [arguments.python, "-m", "vllm.entrypoints.openai.api_server", "--model", "{policy}"]
        words += ["--host", "{host}", "--port", "{port}"]
        words += ["--no-enable-chunked-prefill"] if arguments.device == "cpu" else []
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        settings = {"servers": [f"http://127.0.0.1:{arguments.port}/v1"], "server_command": " ".join(words)}
    model = ModelConfig(path=str(arguments.model), dtype=arguments.dtype)
    with open_generator(GenerationConfig(backend=arguments.backend, **settings), model) as generator:
        yield generator


@cache
def load(path: Path, dtype: str, device: str, who: str) -> Policy:
    """The model, once as the policy and once as the reference."""
    return load_policy(path, dtype=dtype, device=device)


def policy_of(arguments: argparse.Namespace, who: str = "policy") -> Policy:
    return load(arguments.model, arguments.dtype, arguments.device, who)


@contextmanager
def open_method(part: str, method: str, arguments: argparse.Namespace, folder: Path) -> Iterator[Method]:
    """Loads what a method needs; the pairs are those that `write_pairs` has left in the folder."""
    if part == "training":
        yield lambda: train(method, arguments, folder)
    elif part == "writing" and method == "sgpo":
        with open_backend(arguments) as generator:
            bench = RealBench(arguments, None, None, prompts_of(arguments))
            bench.generator = generator
            yield lambda: bench.timed(lambda: sum(one.n_tokens for row in bench.write_ours() for one in row))
    elif part == "writing":
        bench = RealBench(arguments, policy_of(arguments), None, prompts_of(arguments))
        yield lambda: bench.timed(lambda: sum(bench.write_plain()))
    else:
        policy, pairs = policy_of(arguments), read_pairs(folder)
        tokens = count_tokens(policy, pairs)
        if method == "TRL":
            bench = RealBench(arguments, policy, policy_of(arguments, "reference"), pairs[0])
            trainer, loader = bench.open_trl(pairs, str(folder / "trl"))
            score = partial(bench.score_trl, trainer, loader, bench.reference.model)
        else:
            bench = RealBench(arguments, policy, None, pairs[0])
            score = partial(bench.score_ours, pairs, policy, 8192)
        yield lambda: (bench.timed(score)[0], tokens)


def train(mode: str, arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Median seconds of a step, and the mean tokens of one."""
    block = Block(2048, arguments.pairs, arguments.steps, arguments.device, dtype=arguments.dtype, wall=True)
    tokens = json.loads((folder / "tokens.json").read_text())
    return statistics.median(run_block(mode, folder, block)["steps"]), tokens * arguments.pairs


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def write_pairs(arguments: argparse.Namespace, folder: Path) -> None:
    """Writes two responses to every prompt, and stores them as pairs, plain and scored."""
    bench = RealBench(arguments, policy_of(arguments), None, prompts_of(arguments))
    bench.generator = TransformersGenerator(bench.policy, batch_size=arguments.batch_size)
    bench.sampling = replace(bench.sampling, n=2)
    pairs = bench.pairs()
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "tokens.json").write_text(json.dumps(count_tokens(bench.policy, pairs) / len(pairs[0])))
    os.symlink(Path(arguments.model).resolve(), folder / "model")
    rows = [
        {"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}
        for prompt, chosen, rejected in zip(*pairs, strict=True)
    ]
    rows = Dataset.from_list(rows * -(-arguments.pairs * arguments.steps // len(rows)))
    rows.save_to_disk(folder / "pairs")
    logps, noise = bench.score_ours(pairs, bench.policy, 8192), np.random.default_rng(0)
    for place, side in enumerate(("chosen", "rejected")):
        own = np.resize(logps[:, place], len(rows))
        # Gaps of a policy that has learnt something: those of the reference to itself are all zero.
        rows = rows.add_column(f"{side}_logps", (own + noise.normal(size=len(rows))).tolist())
        rows = rows.add_column(f"ref_{side}_logps", own.tolist())
    rows.save_to_disk(folder / "scored")


def read_pairs(folder: Path) -> tuple[Conversations, list[str], list[str]]:
    return tuple(json.loads((folder / "pairs.json").read_text()))


def count_tokens(policy: Policy, pairs: tuple[Conversations, list[str], list[str]]) -> int:
    """Tokens of prompts and responses, the prompt counted with each response."""
    prompts, first, second = pairs
    rows = tokenize_responses(policy.tokenizer, prompts * 2, first + second)
    return sum(len(row.prompt_ids) + len(row.response_ids) for row in rows)


def prompts_of(arguments: argparse.Namespace) -> Conversations:
    if arguments.prompts is not None:
        return load_prompts(arguments.prompts)["prompt"][: arguments.count]
    return [[{"role": "user", "content": task.format(thing)}] for thing in THINGS for task in TASKS][: arguments.count]


def run_once(part: str, method: str, arguments: argparse.Namespace, folder: Path) -> float:
    """Peak memory in MiB of this process, which does nothing but this; of its largest process, if it starts any."""
    with open_method(part, method, arguments, folder) as call:
        call()
    if arguments.device == "cuda":
        elsewhere = (part, method) == ("writing", "sgpo") and arguments.backend != "transformers"
        return float("nan") if elsewhere else torch.cuda.max_memory_allocated() / 2**20
    return max(resident_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def compare(part: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Prints one row per method: all in turn, each turn beginning with another one."""
    methods, speeds = METHODS[part], {method: [] for method in METHODS[part]}
    with ExitStack() as stack:
        calls = {one: stack.enter_context(open_method(part, one, arguments, folder)) for one in methods}
        for turn in range(arguments.repeats):
            for place in range(len(methods)):
                method = methods[(place + turn) % len(methods)]
                seconds, tokens = calls[method]()
                speeds[method].append(tokens / seconds)
    words = [*sys.argv[1:], "--folder", str(folder), "--alone", part]
    peaks = {one: np.nan if arguments.no_memory else run_alone(__file__, [*words, one]) for one in methods}
    first = methods[0]
    print(f"\n| {part} | tokens/s | relative to {first} | peak MiB | relative |\n| -- | -- | -- | -- | -- |")
    for method, found in speeds.items():
        name = f"{method}, backend {arguments.backend}" if (part, method) == ("writing", "sgpo") else method
        speed, ratio = statistics.median(found), statistics.median(found) / statistics.median(speeds[first])
        row = f"| {name} | {speed:,.1f} | {ratio:.2f} | {peaks[method]:,.0f} | {peaks[method] / peaks[first]:.2f} |"
        print(row.replace("nan", "-"), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of a model with a chat template")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=Dtype.__args__[:3], default="float32", help="of the weights")
    parser.add_argument("--part", choices=list(METHODS), nargs="+", default=list(METHODS))
    parser.add_argument("--backend", choices=Backend.__args__, default="transformers", help="what writes for sgpo")
    parser.add_argument("--python", default=os.environ.get("SGPO_VLLM_PYTHON", sys.executable), help="that has vLLM")
    parser.add_argument("--port", type=int, default=8765, help="of the server that the backend `server` starts")
    parser.add_argument("--prompts", help="prompts: file, folder or Hub id (default: 48 short requests)")
    parser.add_argument("--count", type=int, default=24, help="use only the first prompts")
    parser.add_argument("--candidates", type=int, default=4, help="responses to a prompt, in writing")
    parser.add_argument("--top-p", type=float, default=0.95, help="of both writers; their temperature is 0.9")
    parser.add_argument("--batch-size", type=int, default=48, help="responses written at once")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=4, help="pairs in a step of training")
    parser.add_argument("--steps", type=int, default=4, help="steps of a block of training; the first is not timed")
    parser.add_argument("--repeats", type=int, default=3, help="turns of every method")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory, one more process per method")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    if arguments.alone:
        print(json.dumps(run_once(*arguments.alone, arguments, arguments.folder)))
        return
    on = torch.cuda.get_device_name(0) if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = f"PyTorch {torch.__version__}, transformers {transformers.__version__}, TRL {trl.__version__}"
    print(f"`{' '.join(['python', *sys.argv])}`: {on}, {arguments.dtype}; {versions}; {arguments.repeats} turns.")
    with tempfile.TemporaryDirectory() as name:
        write_pairs(arguments, Path(name))
        for part in arguments.part:
            compare(part, arguments, Path(name))


if __name__ == "__main__":
    main()
