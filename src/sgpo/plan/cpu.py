"""A run on the processors of this machine: how fast they are, measured, and how much memory it needs."""

import os
import time

import torch

from sgpo.config import HardwareConfig, RunConfig
from sgpo.plan.preflight import Inputs
from sgpo.rounds.costs import BYTES, Architecture, Scale, state_bytes

# Shares of a matrix product's speed that a model reaches, padding and other work included, and in training also the
# recomputation that a CPU leaves out by default: SmolLM2-135M-Instruct in float32 through `sgpo run`.
_UTILISATION, _GENERATION = 0.6, 0.45
# Tokens of the product that is measured, and seconds that it takes.
_TOKENS, _SECONDS = 512, 0.2
# Bytes of Python, its libraries and the gaps between blocks; tokens and words of the 7 tiles in which TRL projects to
# the vocabulary without Triton; tokens that are scored at once, and bytes of slices of their logits.
_LIBRARIES, _TILE, _SCORED, _SLICES = int(0.8 * 2**30), (4096, 32_768), 8192, 3 * 2**27


def measure_cpu(architecture: Architecture, dtype: str, processes: int) -> HardwareConfig:
    """This machine as the hardware of a run, each process a device. Its speed is that of a product with
    the model's widths by the time in which this thread works: other programs that run meanwhile do not count."""
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    hidden, inner = architecture.hidden, architecture.inner
    states, weights = torch.ones(_TOKENS, hidden, dtype=kind), torch.ones(hidden, inner, dtype=kind)
    product, products, used = states @ weights, 0, 0.0
    started = time.thread_time()
    while used < _SECONDS:
        torch.mm(states, weights, out=product)
        products, used = products + 1, time.thread_time() - started
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30 / processes
    peak = {"memory_gib": memory, "teraflops": products * 2 * _TOKENS * hidden * inner / used / 1e12}
    return HardwareConfig(devices=processes, **peak, utilisation=_UTILISATION, generation_utilisation=_GENERATION)


def peak_bytes(config: RunConfig, inputs: Inputs, scale: Scale) -> dict[str, int]:
    """Most bytes that a process on a CPU needs, by what it does. A trained layer keeps 10 numbers per token and unit of
    width and 4 per unit of its MLP (PyTorch's graph of a Llama); otherwise one layer's inside is there at a time."""
    layers, hidden, vocabulary, inner, keys = inputs.architecture
    leader, size = config.leader, BYTES[config.model.dtype]
    longest, weights = inputs.longest or leader.max_length, inputs.parameters * size
    length = min(longest, leader.max_length)
    state = state_bytes(inputs.parameters, "float32") if leader.lora is None else weights
    tokens, graph, read = 2 * leader.micro_batch_size * length, 10 * hidden + 4 * inner, 6 * hidden + 3 * inner
    recomputes = any(leader.trainer.get(f"{what}_checkpointing") for what in ("activation", "gradient"))
    graph = layers * hidden + graph if recomputes else layers * graph
    head = 7 * min(tokens, _TILE[0]) * min(vocabulary, _TILE[1]) + vocabulary * hidden
    rows = config.generation.candidates * max(scale.pools, default=0)
    scored, written = min(max(2 * inputs.human, rows) * length, _SCORED), min(rows, config.generation.batch_size)
    writing = longest * (2 * layers * keys + read) + 6 * vocabulary
    return {
        "training": _LIBRARIES + state + tokens * graph * size + 4 * head,
        "scoring": _LIBRARIES + weights + scored * (vocabulary + read) * size + _SLICES,
        "generation": _LIBRARIES + weights + written * writing * size,
    }
