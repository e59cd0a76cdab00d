"""Tiny GGUF files of a Llama, written with llama.cpp's own package, whole or with one thing wrong."""

import json
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from example_scripts import load_example


def write_gguf(
    model: str | Path,
    file: Path,
    *,
    kind: str = "F32",
    architecture: str = "llama",
    without: str | tuple[str, ...] = (),
    **fields: Any,
) -> Path:
    """Writes the tiny Llama in a folder as a GGUF file; returns the file.

    Args:
        kind: type of the matrices, such as "Q8_0".
        without: leaves out the weights whose names begin with it, or with one of several.
        fields: further fields, with `__` for a dot, in place of those that the model has; None leaves one out.
    """
    example, loaded = load_example("export_gguf"), AutoModelForCausalLM.from_pretrained(model)
    tokenizer, config = AutoTokenizer.from_pretrained(model), loaded.config
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in backend["added_tokens"]}
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    sizes = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "embedding_length": config.hidden_size,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": len(tokens),
    }
    content = {
        "general.name": "Tiny Llama",
        **{f"{architecture}.{name}": value for name, value in sizes.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in backend["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
        **{name.replace("__", "."): value for name, value in fields.items()},
    }
    writer = gguf.GGUFWriter(file, architecture)
    for name, value in content.items():
        if value is not None:
            types = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
            writer.add_key_value(name, value, types.get(type(value), gguf.GGUFValueType.ARRAY))
    for name, weight in example.gguf_weights(loaded, "llama").items():
        if not name.startswith(without):
            example.add_weight(writer, name, weight, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
