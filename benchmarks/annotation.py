"""The cost of annotating a round compared with the obvious alternatives: the same model and prompts, one run.

    python benchmarks/annotation.py                                  # a random Llama on the CPU, ten CPU minutes
    python benchmarks/annotation.py --device cuda                    # a random Llama of 1B parameters, bf16
    python benchmarks/annotation.py --model my-sft --reference my-base --prompts prompts.jsonl

Writing: `TransformersGenerator` compared with a loop of `model.generate` over the prompts in the given order and with
transformers' continuous batching; batches, sampling and end tokens are the same. Scoring: one pass of `score_responses`
per model compared with TRL's own (`DPOTrainer.compute_ref_log_probs` over its data loader of pairs in the given order),
whose passes are run once and counted as often as each method needs them. The scored responses are the generated ones.

The random Llama ends a response after any token with the same probability, so lengths are geometric up to the limit;
prompts have log-normal lengths. Methods run in turn; a ratio is the median over turns. On the CPU, time is the
process's own CPU seconds, which other processes do not change, and peak memory the resident set of a process that does
nothing else (libraries included); on CUDA they are the synchronised wall clock and the allocator's peak.
"""

import argparse
import gc
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["TQDM_DISABLE"] = "1"

import datasets
import numpy as np
import torch
import transformers
from datasets import Dataset
from measure import resident_peak, run_alone
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer
from trl import DPOConfig, DPOTrainer

from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.sampling import Sampling, prompt_seeds
from sgpo.policy.score import score_responses
from sgpo.policy.tokens import tokenize_prompts
from sgpo.preferences.source import load_prompts

Conversations = list[list[dict[str, str]]]


class Size(NamedTuple):
    """A random Llama, its prompts (median and greatest length) and responses (mean and greatest length), in tokens."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    prompt: int
    longest_prompt: int
    response: int
    longest_response: int
    prompts: int
    batch: int


SIZES = {
    "cpu": Size(256, 4, 4, 2048, 40, 300, 60, 240, 128, 32),
    "cuda": Size(2048, 20, 16, 32000, 120, 1000, 120, 300, 512, 64),
}
PLAIN, OURS, CONTINUOUS = "model.generate, in order", "TransformersGenerator", "continuous batching"


def write_model(folder: Path, size: Size, device: str, seed: int) -> None:
    """A random Llama with a word tokenizer; a share of its vocabulary ends a response."""
    words = [f"w{index}" for index in range(size.vocabulary - 3)]
    vocabulary = {word: place for place, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = FastTokenizer(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} <eos> {% endfor %}"
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=4 * size.hidden,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=2048, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    model.generation_config.eos_token_id = list(range(1, size.vocabulary // size.response))
    model.save_pretrained(folder)


def draw_prompts(size: Size) -> Conversations:
    random = np.random.default_rng(0)
    words = [f"w{index}" for index in range(size.vocabulary - 3)]
    lengths = np.exp(random.normal(np.log(size.prompt), 0.9, size.prompts)).clip(4, size.longest_prompt).astype(int)
    return [[{"role": "user", "content": " ".join(random.choice(words, length))}] for length in lengths]


class Bench:
    """Models, prompts and settings of a run."""

    def __init__(self, arguments: argparse.Namespace, policy: Policy, reference: Policy | None, prompts: Conversations):
        size = SIZES[arguments.device]
        self.policy, self.reference, self.prompts = policy, reference, prompts
        self.batch = arguments.batch_size or size.batch
        self.sampling = Sampling(2, 0.7, 1.0, arguments.max_new_tokens or size.longest_response)
        self.cuda = arguments.device == "cuda"

    def now(self) -> float:
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, call: Callable[[], object]) -> tuple[float, object]:
        """Seconds of a call, and what it returns."""
        gc.collect()
        begin = self.now()
        result = call()
        return self.now() - begin, result

    def generation_config(self) -> GenerationConfig:
        published, tokenizer = self.policy.model.generation_config.eos_token_id, self.policy.tokenizer
        ends = {tokenizer.eos_token_id, *(published if isinstance(published, list) else [published])} - {None}
        return GenerationConfig(
            do_sample=True, temperature=self.sampling.temperature, top_k=0, top_p=self.sampling.top_p,
            max_new_tokens=self.sampling.max_new_tokens, eos_token_id=sorted(ends),
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        )  # fmt: skip

    def write_plain(self) -> list[int]:
        """Tokens of each response, generated batch by batch in the order of the prompts."""
        config, tokenizer, n = self.generation_config(), self.policy.tokenizer, self.sampling.n
        config.num_return_sequences, ends, lengths = n, torch.tensor(config.eos_token_id), []
        step = max(self.batch // n, 1)
        for first in range(0, len(self.prompts), step):
            encoded = tokenizer.apply_chat_template(
                self.prompts[first : first + step], add_generation_prompt=True, return_dict=True, return_tensors="pt",
                padding=True, tokenizer_kwargs={"padding_side": "left"},
            ).to(self.policy.device)  # fmt: skip
            mask = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
            with torch.inference_mode():
                output = self.policy.model.generate(**mask, generation_config=config)[:, mask["input_ids"].shape[1] :]
            tokenizer.batch_decode(output, skip_special_tokens=True)
            ended = torch.isin(output.cpu(), ends)
            lengths += [int(row.int().argmax()) + 1 if row.any() else len(row) for row in ended]
        return lengths

    def write_ours(self) -> list[list]:
        seeds = prompt_seeds(0, len(self.prompts))
        return TransformersGenerator(self.policy, batch_size=self.batch).generate(self.prompts, seeds, self.sampling)

    def write_continuous(self) -> list[int]:
        ids = [row for row in tokenize_prompts(self.policy.tokenizer, self.prompts) for _ in range(self.sampling.n)]
        config = ContinuousBatchingConfig(max_requests_per_batch=self.batch)
        results = self.policy.model.generate_batch(
            ids, generation_config=self.generation_config(), continuous_batching_config=config
        )
        return [len(result.generated_tokens) for result in results.values()]

    def count(self, way: str) -> list[int]:
        """Tokens of each response that a method generates."""
        if way == OURS:
            return [response.n_tokens for row in self.write_ours() for response in row]
        return self.write_plain() if way == PLAIN else self.write_continuous()

    def pairs(self) -> tuple[Conversations, list[str], list[str]]:
        """Prompts and their two responses, without pairs that have an empty one, which TRL cannot train on."""
        rows = zip(self.prompts, self.write_ours(), strict=True)
        whole = [(prompt, *(one.text for one in row)) for prompt, row in rows if all(one.text for one in row)]
        prompts, first, second = map(list, zip(*whole, strict=True))
        return prompts, first, second

    def score_ours(self, pairs: tuple[Conversations, list[str], list[str]], model: Policy, tokens: int) -> np.ndarray:
        """(P, 2) log-probabilities."""
        prompts, first, second = pairs
        return score_responses(model, prompts * 2, first + second, batch_tokens=tokens).logps.reshape(2, -1).T

    def open_trl(self, pairs: tuple[Conversations, list[str], list[str]], folder: str) -> tuple[DPOTrainer, DataLoader]:
        """TRL's trainer and its tokenized batches."""

        def turn(text: str) -> list[dict[str, str]]:
            return [{"role": "assistant", "content": text}]

        rows = [
            {"prompt": prompt, "chosen": turn(one), "rejected": turn(other)}
            for prompt, one, other in zip(*pairs, strict=True)
        ]
        settings = DPOConfig(
            output_dir=folder, per_device_train_batch_size=self.batch // 2, max_length=None, report_to="none",
            bf16=False, use_cpu=not self.cuda, gradient_checkpointing=False, dataloader_pin_memory=self.cuda,
        )  # fmt: skip
        trainer = DPOTrainer(
            model=self.policy.model.train(), ref_model=self.reference.model, args=settings,
            train_dataset=Dataset.from_list(rows), processing_class=self.policy.tokenizer,
        )  # fmt: skip
        loader = DataLoader(trainer.train_dataset, self.batch // 2, collate_fn=trainer.data_collator)
        return trainer, trainer.accelerator.prepare(loader)

    def score_trl(self, trainer: DPOTrainer, loader: DataLoader, model: torch.nn.Module) -> np.ndarray:
        """(P, 2) log-probabilities."""
        found = [torch.stack(trainer.compute_ref_log_probs(model.eval(), batch), dim=1) for batch in loader]
        return torch.cat(found).cpu().double().numpy()


def ways_to_write(arguments: argparse.Namespace) -> list[str]:
    return [PLAIN, OURS] + [CONTINUOUS] * (not arguments.no_continuous)


def compare_writing(bench: Bench, arguments: argparse.Namespace, peaks: dict[str, float]) -> None:
    """Prints one row per method of generating."""
    ways = ways_to_write(arguments)
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    lengths: dict[str, list[int]] = {way: [] for way in ways}
    for turn in range(arguments.repeats):
        torch.manual_seed(turn)
        for place in range(len(ways)):
            way = ways[(place + turn) % len(ways)]
            if bench.cuda:
                torch.cuda.reset_peak_memory_stats()
            took, found = bench.timed(lambda way=way: bench.count(way))
            speeds[way].append(sum(found) / took)
            lengths[way] += found
            if bench.cuda:
                peaks[way] = torch.cuda.max_memory_allocated() / 2**20
    # Methods draw different responses; tokens per second at one mean length make them comparable.
    each = statistics.mean(length for way in ways for length in lengths[way])
    print(f"{'writing':28}{'responses/s':>12}{'tokens/s':>10}{'tokens each':>12}{'x plain':>9}{'peak MiB':>10}")
    for way in ways:
        ratio = statistics.median(one / plain for plain, one in zip(speeds[PLAIN], speeds[way], strict=True))
        speed = statistics.median(speeds[way])
        own = statistics.mean(lengths[way])
        print(f"{way:28}{speed / each:12.2f}{speed:10.0f}{own:12.1f}{ratio:9.2f}{peaks.get(way, np.nan):10.0f}")


def compare_scoring(bench: Bench, arguments: argparse.Namespace) -> None:
    """Prints one row per method of scoring."""
    pairs = bench.pairs()
    with tempfile.TemporaryDirectory() as folder:
        trainer, loader = bench.open_trl(pairs, folder)
        longest = max(batch["input_ids"].shape[1] for batch in loader)
        tokens = max(2 * (bench.batch // 2) * longest, 1)
        both = (bench.policy, bench.reference)
        seconds: dict[str, list[float]] = {"ours": [], "trl": []}
        for _ in range(arguments.repeats):
            took, ours = bench.timed(lambda: [bench.score_ours(pairs, model, tokens) for model in both])
            seconds["ours"].append(took)
            took, trl = bench.timed(lambda: [bench.score_trl(trainer, loader, model.model) for model in both])
            seconds["trl"].append(took)
        off = max(float(np.abs(one - other).max()) for one, other in zip(ours, trl, strict=True))
    responses = 2 * len(pairs[0])
    print(f"\n{'scoring':52}{'passes':>7}{'responses/s':>12}{'x':>6}")
    rows = (
        ("TRL: both models when annotating, both again to train", 4, "trl"),
        ("TRL: both models when annotating, reference to train", 3, "trl"),
        ("TRL: both models once", 2, "trl"),
        ("score_responses: both models once, kept", 2, "ours"),
    )
    for name, passes, way in rows:
        share = passes / 2
        ratio = statistics.median(share * one / own for one, own in zip(seconds[way], seconds["ours"], strict=True))
        print(f"{name:52}{passes:7}{responses / (share * statistics.median(seconds[way])):12.2f}{ratio:6.2f}")
    print(f"largest difference of a log-probability between the two: {off:.2g} nats")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--part", choices=["writing", "scoring", "both"], default="both")
    parser.add_argument("--model", help="policy: folder or Hub id (default: a random Llama)")
    parser.add_argument("--reference", help="reference for the scoring (default: the policy)")
    parser.add_argument("--prompts", help="prompts: file, folder or Hub id (default: random words)")
    parser.add_argument("--count", type=int, help="use only the first prompts")
    parser.add_argument("--batch-size", type=int, help="responses generated at once")
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--repeats", type=int, default=3, help="turns of every method")
    parser.add_argument("--no-continuous", action="store_true", help="skip continuous batching")
    parser.add_argument("--alone", choices=[PLAIN, OURS, CONTINUOUS], help=argparse.SUPPRESS)
    return parser.parse_args()


def open_bench(arguments: argparse.Namespace, folder: Path) -> Bench:
    size = SIZES[arguments.device]
    if arguments.model is None:
        for seed, name in enumerate(("policy", "reference")):
            write_model(folder / name, size, arguments.device, seed)
        arguments.model, arguments.reference = folder / "policy", arguments.reference or folder / "reference"
    dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    policy = load_policy(arguments.model, dtype=dtype, device=arguments.device)
    reference = None
    if arguments.part != "writing" and arguments.alone is None:
        reference = load_policy(arguments.reference or arguments.model, dtype=dtype, device=arguments.device)
    prompts = draw_prompts(size) if arguments.prompts is None else load_prompts(arguments.prompts)["prompt"]
    return Bench(arguments, policy, reference, list(prompts)[: arguments.count])


def main() -> None:
    arguments = parse()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    words = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(arguments, Path(folder))
        if arguments.alone:
            bench.count(arguments.alone)
            print(json.dumps(resident_peak()))
            return
        where = torch.cuda.get_device_name(0) if bench.cuda else "CPU, one thread, CPU seconds"
        weights = sum(weight.numel() for weight in bench.policy.model.parameters()) / 1e6
        print(f"{where}; {weights:.1f}M weights; {len(bench.prompts)} prompts; {bench.sampling}; batch {bench.batch}")
        if arguments.part != "scoring":
            peaks = (
                {}
                if bench.cuda
                else {way: run_alone(__file__, [*words, "--alone", way]) for way in ways_to_write(arguments)}
            )
            compare_writing(bench, arguments, peaks)
        if arguments.part != "writing":
            compare_scoring(bench, arguments)


if __name__ == "__main__":
    main()
