"""Trains a tokenizer and a small Llama from scratch on your own prompts and responses.

    python examples/small_sft.py --data FILE --output DIR [--layers 2 --hidden 128 ...]

FILE is JSONL, plain or gzipped: each line has `prompt` (text or messages) and `response` (text), or `messages`.
The output folder can be used as `model.path` in a recipe.
"""

import argparse
import os
import sys
from pathlib import Path

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())

from datasets import disable_progress_bars
from rich.progress import Progress
from transformers.utils import logging

from sgpo.demo.sft import train_small_sft
from sgpo.errors import InputError
from sgpo.store.files import read_objects


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSONL with prompt and response, or with messages")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model; new or empty")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=512, help="tokens of a row, and of the model's context")
    parser.add_argument("--seed", type=int, default=0)
    settings = vars(parser.parse_args(argv))
    data, output = settings.pop("data"), settings.pop("output")
    try:
        rows = [row for _, row in read_objects(data)]
        # One bar is enough.
        disable_progress_bars()
        logging.disable_progress_bar()
        with Progress() as bars:
            task = bars.add_task(f"SFT on {len(rows)} rows", total=None)
            train_small_sft(
                rows, output, progress=lambda done, total: bars.update(task, completed=done, total=total), **settings
            )
    except InputError as error:
        print(f"small_sft: {error}", file=sys.stderr)
        return 2
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
