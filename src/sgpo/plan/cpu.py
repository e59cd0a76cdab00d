"""A run on the processors of this machine: their speed, measured, and the memory that the run needs and there is."""

import os
import time
from pathlib import Path

import torch

from sgpo.config import RunConfig
from sgpo.plan.preflight import Inputs
from sgpo.rounds.costs import BYTES, Architecture, Scale, Speed, state_bytes

# Shares of the speed of matrix products that a model reaches, padding and start-up included: SmolLM2-135M-Instruct in
# float32 through `sgpo run` on two threads. Training counts the recomputation that a CPU leaves out by default.
_READ, _WRITE, _SCORE, _TRAIN = 0.6, 0.25, 0.6, 0.6
# Tokens of the product that is measured, the largest width of a model that it has, and seconds that it takes.
_TOKENS, _WIDEST, _SECONDS = 512, 4096, 0.2
# Bytes of Python, its libraries and the gaps between blocks. Tokens and words of the tiles in which TRL projects to the vocabulary without
# Triton, and how many there are at once; tokens that are scored at once, and bytes to sum their logits slice by slice.
_LIBRARIES = int(0.8 * 2**30)
_TILE, _TILES = (4096, 32_768), 7
_SCORED, _SLICES = 8192, 3 * 2**27
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def measure_operations(architecture: Architecture, dtype: str) -> float:
    """Operations a second of matrix products with the widths of a model, on the threads of this process.

    Only time in which this thread works is counted: other programs that run meanwhile make no machine slower.
    """
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    hidden, inner = min(architecture.hidden, _WIDEST), min(architecture.inner, 4 * _WIDEST)
    states, weights = torch.ones(_TOKENS, hidden, dtype=kind), torch.ones(hidden, inner, dtype=kind)
    product = states @ weights
    started, products, used = time.thread_time(), 0, 0.0
    while used < _SECONDS:
        torch.mm(states, weights, out=product)
        products, used = products + 1, time.thread_time() - started
    return products * 2 * _TOKENS * hidden * inner / used


def cpu_speed(config: RunConfig, operations: float) -> Speed:
    """The speed of a run where matrix products reach this many operations a second; servers are not counted."""
    here = config.generation.backend == "transformers"
    read, write = (_READ * operations, _WRITE * operations) if here else (None, None)
    return Speed(read, write, _SCORE * operations, _TRAIN * operations)


def peak_bytes(config: RunConfig, inputs: Inputs, scale: Scale) -> dict[str, int]:
    """Most bytes that a process on a CPU needs, by what it does.

    A layer that is trained keeps 10 numbers per token and unit of width and 4 per unit of its MLP (counted in PyTorch's
    graph of a Llama); without a backward pass one layer's inside is there at a time.
    """
    layers, hidden, vocabulary, inner, keys = inputs.architecture
    leader, size = config.leader, BYTES[config.model.dtype]
    weights, length = inputs.parameters * size, min(inputs.longest, leader.max_length)
    state = state_bytes(inputs.parameters, config.model.dtype) if leader.lora is None else weights
    state += weights * (leader.trainer.get("decoupling", 1) != 1)
    tokens, graph = 2 * leader.micro_batch_size * length, (10 * hidden + 4 * inner) * size
    kept = layers * hidden * size + graph if recomputes(config) else layers * graph
    tile, read = min(tokens, _TILE[0]) * min(vocabulary, _TILE[1]), 6 * hidden + 3 * inner
    rows = config.generation.candidates * max(scale.pools, default=0)
    scored, written = min(max(2 * inputs.human, rows) * length, _SCORED), min(rows, config.generation.batch_size)
    return {
        "training": _LIBRARIES + state + tokens * kept + 4 * (_TILES * tile + vocabulary * hidden),
        "scoring": _LIBRARIES + weights + scored * (vocabulary + read) * size + _SLICES,
        "generation": _LIBRARIES
        + weights
        + written * (inputs.longest * (2 * layers * keys + read) + 6 * vocabulary) * size,
    }


def recomputes(config: RunConfig) -> bool:
    """Whether a training on a CPU recomputes activations: only if its arguments say so, by either name."""
    given = config.leader.trainer
    return bool(given.get("activation_checkpointing", given.get("gradient_checkpointing", False)))


def machine_bytes() -> int | None:
    """Memory of this machine, or of the container that the process runs in; None if the system does not say."""
    if not hasattr(os, "sysconf"):
        return None
    allowed = _LIMIT.read_text().strip() if _LIMIT.is_file() else ""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(machine, int(allowed)) if allowed.isdigit() else machine
