"""What a leader's step costs beside TRL's DPOTrainer: same model, pairs and settings, interleaved in one run.

    python benchmarks/leader.py                                   # a 4-layer random Llama on the CPU, a few minutes
    python benchmarks/leader.py --lora                            # every mode trains a LoRA adapter
    python benchmarks/leader.py --device cuda                     # a random Llama of 1B parameters, bf16, 1,024 tokens

Every mode trains the same blocks of steps in turn; a ratio is the median over blocks of its step time over TRL's in the
same turn, so that a busy moment hits all. On the CPU a step is timed by the process's own CPU seconds, which other
processes do not stretch; on CUDA by the wall clock, synchronised. Peak memory is the resident set of a process of its
own on the CPU (libraries included), and the allocator's on CUDA.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset, load_from_disk
from measure import resident_peak, run_alone
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer

from sgpo.leader import SGPOConfig, SGPOTrainer

SPA = {"radius": 0.0, "confidence_smoothing": 0.1}
FOLLOWER = {"radius": 0.05, "space": "probability", "tangents": 6, "guards": True}
# Name: trainer, its own arguments, and whether the pairs store reference and policy scores.
MODES: dict[str, tuple[type, dict[str, Any], bool]] = {
    "TRL DPOTrainer": (DPOTrainer, {}, False),
    "SGPO radius 0": (SGPOTrainer, {"radius": 0.0}, False),
    "SGPO envelope": (SGPOTrainer, FOLLOWER, False),
    "SGPO envelope, epoch": (SGPOTrainer, {**FOLLOWER, "schedule": "epoch"}, False),
    "SGPO envelope, step": (SGPOTrainer, {**FOLLOWER, "schedule": "step"}, False),
    "SGPO transport": (SGPOTrainer, {**FOLLOWER, "step": "transport"}, False),
    "SGPO mixture, step": (SGPOTrainer, {**FOLLOWER, "step": "mixture", "schedule": "step"}, False),
    "SPA smoothing": (SGPOTrainer, SPA, False),
    "SPA smoothing, decoupled": (SGPOTrainer, {**SPA, "decoupling": 1.3}, False),
    "Dr. DPO": (SGPOTrainer, {"radius": 0.0, "dr_dpo_beta": 1.0}, False),
    "TRL, scores precomputed": (DPOTrainer, {"precompute_ref_log_probs": True}, False),
    "SGPO envelope, stored": (SGPOTrainer, FOLLOWER, True),
    "Dr. DPO, stored": (SGPOTrainer, {"radius": 0.0, "dr_dpo_beta": 1.0}, True),
    "SGPO step, stored": (SGPOTrainer, {**FOLLOWER, "schedule": "step"}, True),
}


class Size(NamedTuple):
    """Model, batch and data of a run."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    tokens: int
    batch: int


class Block(NamedTuple):
    """How a mode trains one block of steps."""

    tokens: int
    batch: int
    steps: int
    device: str
    lora: bool = False
    dtype: str | None = None  # of the weights; None: bfloat16 on CUDA, float32 on the CPU
    wall: bool = False  # steps are timed by the wall clock on the CPU too

    @property
    def weights(self) -> str:
        return self.dtype or ("bfloat16" if self.device == "cuda" else "float32")


SIZES = {"cpu": Size(256, 4, 4, 2048, 96, 4), "cuda": Size(2048, 20, 16, 32000, 1024, 4)}


class Clock(TrainerCallback):
    """Seconds of each optimiser step, data loading and logging between steps included."""

    def __init__(self, block: Block) -> None:
        self.block, self.marks = block, []

    def _now(self) -> float:
        if self.block.device == "cuda":
            torch.cuda.synchronize()
        elif not self.block.wall:
            return time.process_time()
        return time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(self._now())

    @property
    def steps(self) -> list[float]:
        """Without the first step, in which allocators and caches warm up."""
        return np.diff(self.marks).tolist()


def write_inputs(folder: Path, size: Size, steps: int, device: str) -> None:
    """A random Llama with a word tokenizer, and pairs of random words that fill `tokens`, plain and scored."""
    words = [f"w{index}" for index in range(size.vocabulary - 3)]
    vocabulary = {word: place for place, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} <eos> {% endfor %}"
    fast.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=2 * size.tokens, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    model.save_pretrained(folder / "model")
    generator = np.random.default_rng(0)

    def turn(role: str, count: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(generator.choice(words, count))}]

    half = size.tokens // 2 - 1
    pairs = Dataset.from_list(
        [
            {"prompt": turn("user", half), "chosen": turn("assistant", half), "rejected": turn("assistant", half)}
            for _ in range(size.batch * steps)
        ]
    )
    pairs.save_to_disk(folder / "pairs")
    for column in ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps"):
        pairs = pairs.add_column(column, (-8.0 * half + generator.normal(size=len(pairs))).tolist())
    pairs.save_to_disk(folder / "scored")


def run_block(mode: str, folder: Path, block: Block) -> dict[str, Any]:
    """Trains one block of a mode from the saved model: seconds per step, and peak memory in MiB."""
    kind, options, stored = MODES[mode]
    cuda = block.device == "cuda"
    arguments = {
        "output_dir": str(folder / "out"), "per_device_train_batch_size": block.batch, "max_steps": block.steps,
        "max_length": block.tokens, "bf16": block.weights == "bfloat16", "use_cpu": not cuda, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 5, "dataloader_pin_memory": cuda,
        "activation_checkpointing": cuda, **options,
    }  # fmt: skip
    clock = Clock(block)
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=block.weights),
        args=(DPOConfig if kind is DPOTrainer else SGPOConfig)(**arguments),
        train_dataset=load_from_disk(folder / ("scored" if stored else "pairs")),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[clock],
        peft_config=make_lora() if block.lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    result = {"steps": clock.steps, "peak": resident_peak()}
    del trainer
    gc.collect()
    if cuda:
        result["peak"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.empty_cache()
    return result


def make_lora() -> Any:
    """An adapter of rank 16 on the attention's query and value projections."""
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])


def print_table(times: dict[str, list[list[float]]], peaks: dict[str, float], size: Size) -> None:
    """One row per mode: median milliseconds, tokens per second, ratios to TRL's modes, peak memory."""
    plain, precomputed = times["TRL DPOTrainer"], times["TRL, scores precomputed"]

    def ratio(blocks: list[list[float]], others: list[list[float]]) -> float:
        pairs = zip(blocks, others, strict=True)
        return statistics.median(statistics.median(one) / statistics.median(other) for one, other in pairs)

    print("| mode | ms a step | tokens/s | / TRL | / TRL precomputed | peak MiB | / TRL |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    for mode, blocks in times.items():
        step = statistics.median(second for block in blocks for second in block)
        speed, memory = 2 * size.batch * size.tokens / step, peaks[mode] / peaks["TRL DPOTrainer"]
        ratios = f"{ratio(blocks, plain):.3f} | {ratio(blocks, precomputed):.3f}"
        row = f"| {mode} | {1e3 * step:.1f} | {speed:.0f} | {ratios} | {peaks[mode]:.0f} | {memory:.3f} |"
        print(row.replace("nan", "-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--blocks", type=int, default=5, help="turns that every mode takes")
    parser.add_argument("--steps", type=int, default=12, help="optimiser steps in a block")
    parser.add_argument("--lora", action="store_true", help="train a LoRA adapter in every mode")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="TRL's are always run")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory, one more process per mode on a CPU")
    parser.add_argument("--alone", choices=list(MODES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"
    size, steps, device, lora = SIZES[arguments.device], arguments.steps, arguments.device, arguments.lora
    run = Block(size.tokens, size.batch, steps, device, lora)
    if arguments.alone:
        print(json.dumps(run_block(arguments.alone, arguments.folder, run)))
        return
    modes = [mode for mode in MODES if mode in arguments.modes or mode.startswith("TRL")]
    times: dict[str, list[list[float]]] = {mode: [] for mode in modes}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, size, steps, device)
        for turn in range(arguments.blocks):
            for place in range(len(modes)):
                # Each turn starts with another mode, so that none is always the one after the slowest.
                mode = modes[(place + turn) % len(modes)]
                block = run_block(mode, folder, run)
                times[mode].append(block["steps"])
                peaks[mode] = max(peaks.get(mode, 0.0), block["peak"])
        if arguments.no_memory:
            peaks = dict.fromkeys(modes, np.nan)
        elif device == "cpu":
            words = [*sys.argv[1:], "--folder", str(folder), "--alone"]
            peaks = {mode: run_alone(__file__, [*words, mode])["peak"] for mode in modes}
    where = torch.cuda.get_device_name(0) if device == "cuda" else "CPU, one thread, CPU seconds"
    what = f"{'LoRA' if lora else 'all weights'}; {size}; {arguments.blocks} blocks of {steps - 1} timed steps"
    print(f"`{' '.join(['python', *sys.argv])}`: {where}; {what}")
    print_table(times, peaks, size)


if __name__ == "__main__":
    main()
