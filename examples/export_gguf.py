"""Writes a policy as a GGUF file, for llama.cpp: the weights of a model folder, the metadata of another GGUF file.

    python examples/export_gguf.py POLICY --like BASE.gguf --output POLICY.gguf

BASE.gguf is a GGUF file of the model that the policy was trained from, quantised or not: tokenizer, chat template and
sizes are copied from it. Matrices keep the policy's dtype. For Llama, Mistral, Qwen2 and Qwen3.
"""

import argparse
import os
import sys
from pathlib import Path

from sgpo.threads import passive_waiting

os.environ.update(passive_waiting())

import gguf
import torch
from transformers import PreTrainedModel

from sgpo.errors import InputError
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import load_policy
from sgpo.store.files import replacing

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def gguf_weights(model: PreTrainedModel, architecture: str) -> dict[str, torch.Tensor]:
    """The weights of a model by llama.cpp's names, and in its order."""
    config, weights = model.config, {}
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        stem, _, kind = name.rpartition(".")
        own = f"{names.get_name(stem)}.{kind}"
        if architecture == "llama" and (".attn_q." in own or ".attn_k." in own):
            # transformers rotates the two halves of a head, llama.cpp's llama pairs of neighbours.
            heads = config.num_attention_heads if ".attn_q." in own else config.num_key_value_heads
            halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        weights[own] = weight
    return weights


def add_weight(writer: gguf.GGUFWriter, name: str, weight: torch.Tensor, kind: str) -> None:
    """Adds a weight; llama.cpp wants vectors in float32, whatever the matrices are."""
    stored = gguf.GGMLQuantizationType["F32" if weight.ndim == 1 else kind]
    writer.add_tensor(name, gguf.quantize(weight.float().numpy(), stored), raw_dtype=stored)


def export_gguf(policy: Path, like: Path, output: Path) -> None:
    """Writes the policy in a folder as `output`, with the metadata of the GGUF file `like`."""
    base = GGUFFile(str(like.parent), like.name, "auto")
    architecture = base.header.fields["general.architecture"].contents()
    if architecture not in ARCHITECTURES:
        raise InputError(f"{like}: architecture {architecture!r}; allowed: {', '.join(ARCHITECTURES)}.")
    model = load_policy(policy, dtype="auto", device="cpu").model
    weights, kind = gguf_weights(model, architecture), DTYPES[model.dtype]
    # llama.cpp lists sizes from the innermost on. Factors of rotary positions (rope_*) are no weights.
    shapes = {one.name: tuple(reversed(one.shape.tolist())) for one in base.header.tensors if one.name[:5] != "rope_"}
    if model.config.tie_word_embeddings and "output.weight" not in shapes:
        del weights["output.weight"]
    if differing := sorted(shapes.items() ^ {(name, tuple(weight.shape)) for name, weight in weights.items()}):
        raise InputError(
            f"{like} and {policy} differ in {differing[0][0]} {differing[0][1]}; allowed: a GGUF file of the model "
            "that the policy was trained from."
        )
    with replacing(output) as partial:
        writer = gguf.GGUFWriter(partial, architecture)
        for field in base.header.fields.values():
            if not field.name.startswith(("GGUF.", "general.architecture", "general.quantization_version")):
                value = FILE_TYPES[kind] if field.name == "general.file_type" else field.contents()
                writer.add_key_value(field.name, value, field.types[0], (*field.types, None)[1])
        for tensor in base.header.tensors:
            if tensor.name in weights:
                add_weight(writer, tensor.name, weights[tensor.name], kind)
            # A policy whose base was loaded from GGUF is without the factors.
            elif model.config.rope_parameters["rope_type"] != "default":
                writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="folder of the policy, such as runs/NAME/round-1/policy")
    parser.add_argument("--like", type=Path, required=True, help="a GGUF file of the model it was trained from")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args(argv)
    try:
        export_gguf(arguments.policy, arguments.like, arguments.output)
    except InputError as error:
        print(f"export_gguf: {error}", file=sys.stderr)
        return 2
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
