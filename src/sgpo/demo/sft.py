"""A small SFT model from scratch: a tokenizer and a Llama, trained on prompts and responses with TRL's SFTTrainer."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from sgpo.errors import InputError, check_whole
from sgpo.store.files import replacing

ROLES = ("system", "user", "assistant")
PAD, END = "<|pad|>", "<|end|>"
VOCABULARY = 1024
Progress = Callable[[int, int], None]

# The generation tags mark what TRL's assistant_only_loss trains on: the assistant's words and the token that ends them.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{- message['content'] + '<|end|>' -}}{% endgeneration %}"
    "{%- else -%}"
    "{{- message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train_small_sft(
    rows: Iterable[dict[str, Any]],
    output_dir: str | Path,
    *,
    vocab_size: int = VOCABULARY,
    layers: int = 2,
    hidden: int = 128,
    heads: int = 4,
    epochs: float = 1.0,
    learning_rate: float = 5e-3,
    batch_size: int = 16,
    max_length: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Trains a byte-level BPE tokenizer and a Llama from random weights on rows of prompt and response.

    Only the assistant's turns carry loss. The saved folder (safetensors, tokenizer with chat template) loads with
    AutoModelForCausalLM and AutoTokenizer.

    Args:
        rows: `prompt` (text, or a list of messages) and `response` (text), or `messages` with at least one assistant
            turn; roles are system, user and assistant.
        output_dir: folder to write; it must not exist, or be empty.
        vocab_size: maximum size of the vocabulary; at least 261, the bytes and the special tokens.
        layers, hidden, heads: size of the Llama; `hidden` is a multiple of twice `heads`.
        epochs: passes over the rows, also a part of one.
        learning_rate: peak of AdamW's cosine schedule.
        batch_size: rows per optimiser step.
        max_length: tokens of a row, longer ones are truncated; also the model's context.
        seed: of the weights and of the order of the rows.
        progress: called after each optimiser step with the steps done and the total.

    Raises:
        InputError: a row or an argument that cannot be used; it is named.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputError(f"output_dir: {output_dir} exists and is not empty; allowed: a new or an empty folder.")
    _check_size(vocab_size, layers, hidden, heads, max_length)
    conversations = [_messages(row, place) for place, row in enumerate(rows)]
    if not conversations:
        raise InputError("rows is empty; allowed: at least one row.")
    set_seed(seed)
    tokenizer = _train_tokenizer((message["content"] for turns in conversations for message in turns), vocab_size)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = _build(len(tokenizer), layers, hidden, heads, max_position_embeddings=max_length, **special)
    with replacing(output_dir) as partial, tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                num_train_epochs=epochs,
                learning_rate=learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                per_device_train_batch_size=batch_size,
                max_length=max_length,
                seed=seed,
                assistant_only_loss=True,
                activation_checkpointing=False,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"messages": conversations}),
            processing_class=tokenizer,
            callbacks=[_Steps(progress)] if progress else [],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return output_dir


def count_parameters(*, layers: int, hidden: int, heads: int) -> int:
    """Weights of the Llama that `train_small_sft` builds when its vocabulary is full."""
    _check_size(VOCABULARY, layers, hidden, heads)
    with torch.device("meta"):
        model = _build(VOCABULARY, layers, hidden, heads)
    return sum(weight.numel() for weight in model.parameters())


def _check_size(vocab_size: int, layers: int, hidden: int, heads: int, max_length: int = 8) -> None:
    check_whole("vocab_size", vocab_size, 256 + len(ROLES) + 2)
    check_whole("layers", layers, 1)
    check_whole("max_length", max_length, 8)
    if heads < 1 or hidden % (2 * heads):
        raise InputError(f"hidden is {hidden} and heads is {heads}; allowed: hidden a multiple of 2 * heads.")


def _messages(row: dict[str, Any], place: int) -> list[dict[str, str]]:
    """The messages of a row, checked."""
    if "messages" in row:
        turns = row["messages"]
    elif "prompt" in row and "response" in row:
        prompt, answer = row["prompt"], {"role": "assistant", "content": row["response"]}
        turns = [*prompt, answer] if isinstance(prompt, list) else [{"role": "user", "content": prompt}, answer]
    else:
        raise InputError(f"row {place} has the keys {sorted(row)}; allowed: prompt and response, or messages.")
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise InputError(f"row {place} has the turn {turn!r}; allowed: a role of {ROLES} and a text as content.")
    if not any(turn["role"] == "assistant" and turn["content"] for turn in turns):
        raise InputError(f"row {place} has no assistant turn with words in it; allowed: at least one.")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    headers = [f"<|{role}|>" for role in ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *headers],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=headers,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _build(vocab_size: int, layers: int, hidden: int, heads: int, **more: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        # With the usual 0.02 a small model needs three times the steps before it copies words from its prompt.
        initializer_range=0.05,
        bos_token_id=None,
        **more,
    )
    return LlamaForCausalLM(config)


class _Steps(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args, state, control, **kwargs):
        self._progress(state.global_step, state.max_steps)
