"""Estimates against arithmetic by hand, against a real optimizer, and against operations that PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from sgpo.config import HardwareConfig, ModelConfig
from sgpo.rounds.costs import BYTES, Architecture, Scale, activation_bytes, state_bytes

LLAMA_7B = 6_738_415_616
LLAMA = Architecture(layers=32, hidden=4096, vocabulary=32_000, inner=11_008, keys=4096)
TOKENS = 500


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            tie_word_embeddings=True,
        )
    )


def count_weights(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def hours(hardware, parameters, tokens, **work) -> float | None:
    return Scale(parameters, 1, 0, 0, [1], 1, 1, 1).hours(hardware, tokens, **work)


def operations(parameters, tokens, **work) -> float:
    """Of a work, from its hours on a device that does 10^12 a second."""
    return (
        hours(HardwareConfig(teraflops=1, utilisation=1, generation_utilisation=1), parameters, tokens, **work) * 3.6e15
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_holds_weights_gradients_and_two_moments_as_adamw_does(model, dtype):
    model = model.to(getattr(torch, dtype))
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    held = [tensor for parameter in model.parameters() for tensor in (parameter.data, parameter.grad)]
    held += [moment for state in optimizer.state.values() for moment in (state["exp_avg"], state["exp_avg_sq"])]
    expected = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert state_bytes(count_weights(model), dtype) == expected
    model.to(torch.float32)


def test_a_7b_llama_trains_in_50_gib_of_bfloat16_and_twice_that_of_float32():
    assert state_bytes(LLAMA_7B, "bfloat16") == 4 * 2 * LLAMA_7B
    assert state_bytes(LLAMA_7B, "bfloat16") / 2**30 == pytest.approx(50.2, abs=0.05)
    assert state_bytes(LLAMA_7B, "float32") == 2 * state_bytes(LLAMA_7B, "bfloat16")
    assert state_bytes(LLAMA_7B, "float16") == state_bytes(LLAMA_7B, "bfloat16")


def test_activations_of_a_7b_llama_by_hand():
    """4 pairs of 1,024 tokens: 8,192 tokens; 34 bytes a token and unit of width in bfloat16."""
    tokens = 4 * 2 * 1024
    inputs = 32 * tokens * 4096 * 2  # 2 GiB
    inside = 34 * tokens * 4096  # 1.0625 GiB
    logits = 4096 * 32_000 * 4 * 2  # a slice and its gradient
    assert activation_bytes(LLAMA, tokens, "bfloat16") == inputs + inside + logits
    assert activation_bytes(LLAMA, tokens, "bfloat16") / 2**30 == pytest.approx(4.04, abs=0.005)


def test_activations_grow_by_the_same_for_every_layer_and_token_beyond_one_slice_of_logits():
    def at(layers, tokens):
        return activation_bytes(LLAMA._replace(layers=layers), tokens, "bfloat16")

    assert at(33, 8192) - at(32, 8192) == at(2, 8192) - at(1, 8192) == 8192 * 4096 * 2
    assert at(32, 8193) - at(32, 8192) == at(32, 5001) - at(32, 5000)
    assert at(32, 101) - at(32, 100) == at(32, 8193) - at(32, 8192) + 2 * 32_000 * 4


def test_kept_layer_inputs_are_those_that_checkpointing_saves_for_backward(model):
    """What a real forward pass with recomputation keeps: the input of each layer."""
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    saved: dict[int, int] = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = model.base_model(input_ids=torch.arange(2 * 64).view(2, 64)).last_hidden_state
    kept = sum(size for place, size in saved.items() if place not in parameters and size >= states.nbytes)
    model.gradient_checkpointing_disable()
    architecture = Architecture(4, 128, 512, 256, 128)
    inputs = activation_bytes(architecture, 128, "float32") - activation_bytes(
        architecture._replace(layers=0), 128, "float32"
    )
    # The final norm keeps its own.
    assert inputs == 4 * 128 * 128 * 4 <= kept <= 2 * inputs


def test_a_forward_pass_is_two_operations_a_weight_and_token_and_training_four_times_that(model):
    """As PyTorch counts them, and the forward pass once more, which is recomputed in the backward pass.

    Embeddings are looked up and attention is left out: both are small.
    """
    model.train()
    ids = torch.arange(64)[None]
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    once, back = forward.get_total_flops(), backward.get_total_flops()
    assert operations(count_weights(model), 64) == pytest.approx(once, rel=0.15)
    assert operations(count_weights(model), 64, training=True) == pytest.approx(2 * once + back, rel=0.15)


def test_operations_of_a_toy_by_hand():
    assert operations(100, 4 * 15) == operations(100, 4 * 15, generating=True) == pytest.approx(2 * 100 * 4 * 15)
    assert operations(100, 2 * 15, training=True) == pytest.approx(8 * 100 * 2 * 15)


def test_operations_are_linear_in_weights_and_tokens():
    for work in ({}, {"generating": True}, {"training": True}):
        once = operations(LLAMA_7B, TOKENS, **work)
        assert operations(3 * LLAMA_7B, TOKENS, **work) == pytest.approx(3 * once)
        assert operations(LLAMA_7B, 3 * TOKENS, **work) == pytest.approx(3 * once)


def test_hours_by_hand():
    """A petaflop at a petaflop a second takes a second; half the utilisation, twice; four devices, a quarter."""
    one = HardwareConfig(devices=1, teraflops=1000, utilisation=1, generation_utilisation=0.25)
    four = HardwareConfig(devices=4, teraflops=1000, utilisation=0.5)
    tokens = 1e15 * 3600 / (2 * 10**9)  # of a model of 10^9 weights
    assert hours(one, 10**9, tokens) == pytest.approx(1)
    assert hours(one, 10**9, tokens, training=True) == pytest.approx(4)
    assert hours(one, 10**9, tokens, generating=True) == pytest.approx(4)
    assert hours(four, 10**9, tokens) == pytest.approx(0.5)
    assert hours(None, 10**9, tokens) is None
    # 8,000 prompts, 2 responses each, scored twice by a 7B model on 8 devices of 312 teraflops at 40 %.
    eight = HardwareConfig(devices=8, teraflops=312, utilisation=0.4)
    assert hours(eight, LLAMA_7B, 2 * 16_000 * TOKENS) == pytest.approx(
        2 * 2 * 6.738e9 * 16_000 * 500 / (8 * 312e12 * 0.4) / 3600, rel=1e-3
    )


def test_every_dtype_of_a_recipe_has_a_size():
    allowed = ModelConfig.model_fields["dtype"].annotation.__args__
    assert set(BYTES) == set(allowed)
    for name in set(allowed) - {"auto"}:
        assert BYTES[name] == torch.empty(0, dtype=getattr(torch, name)).element_size()
