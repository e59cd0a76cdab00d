"""A tiny Llama and a small tokenizer, built from scratch and saved: a real checkpoint for tests, in about a second."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sgpo.policy.generate import TransformersGenerator
from sgpo.policy.sampling import Sampling, prompt_seeds

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = (
    "Please tell me about the old bridge in the north of the town.",
    "Of course. The old bridge was built of stone, and it crosses a quiet river.",
    "What is the colour of the sky? The sky is blue in the morning and red at night.",
    "Write a short poem about a cat that sleeps on the roof of a house.",
    "Thank you for the question; here is the answer that you asked for.",
)


def build_tiny_tokenizer(
    *, vocab: int = 384, chat_template: bool = True, corpus: Sequence[str] = CORPUS
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that encodes any text; its end-of-sequence token closes turns."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    if chat_template:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def build_tiny_model(
    path: str | Path,
    *,
    seed: int = 0,
    vocab: int = 384,
    chat_template: bool = True,
    context: int = 256,
    hidden: int = 32,
) -> Path:
    """Saves a two-layer Llama with random weights, large enough that its next-token law is far from flat.

    Args:
        path: directory to write.
        seed: seed of the weights; the global random state is not changed.
        vocab: size of the tokenizer's vocabulary, >= 259 (bytes and special tokens).
        chat_template: whether the tokenizer has a (ChatML) template.
        context: the model's context, in tokens.
        hidden: width; each of the two heads has half of it, and vLLM on a CPU needs heads of 32 or more.

    Returns: `path`.
    """
    tokenizer = build_tiny_tokenizer(vocab=vocab, chat_template=chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def generate_responses(policy, prompts, *, seed, batch_size=32, progress=None, **sampling):
    """Samples responses in process, with one seed for all prompts; `sampling` are fields of `Sampling`."""
    generator = TransformersGenerator(policy, batch_size=batch_size)
    return generator.generate(prompts, prompt_seeds(seed, len(prompts)), Sampling(**sampling), progress=progress)
