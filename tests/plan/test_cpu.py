"""The plan of a run on this machine's processors: hours and bytes by hand, what is measured, and when."""

import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sgpo.cli import main
from sgpo.config import RunConfig, validate
from sgpo.plan import cpu
from sgpo.plan import run as plan_module
from sgpo.plan.cpu import measure_cpu, peak_bytes
from sgpo.plan.run import plan_run
from sgpo.rounds.costs import Architecture, Scale
from tiny_model import build_tiny_model

PAIRS = [
    {
        "prompt": [{"role": "user", "content": f"Who built the bridge{' and the road' * row}?"}],
        "chosen": [{"role": "assistant", "content": "A mason of the town."}],
        "rejected": [{"role": "assistant", "content": "Nobody" + " knows" * row}],
    }
    for row in range(10)
]
PROMPTS = [{"prompt": [{"role": "user", "content": "Where is the cat? " * (row + 1)}]} for row in range(6)]
# SmolLM2-135M, as its config describes it.
SMALL = Architecture(layers=30, hidden=576, vocabulary=49_152, inner=1536, keys=192)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(tmp_path, model):
    def write(**sections):
        for name, rows in {"seeds": PAIRS, "heldout": PAIRS[:4], "prompts": PROMPTS}.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {name: str(tmp_path / f"{name}.jsonl") for name in ("seeds", "heldout", "prompts")}
        content = {
            "output": str(tmp_path / "run"),
            "rounds": 2,
            "model": {"path": str(model)},
            "data": {**data, "validation_share": 0.2},
            "generation": {"max_new_tokens": 10, "candidates": 3},
            "leader": {"max_length": 128, "batch_size": 4, "seed_epochs": 3, "final_epochs": 2},
            **sections,
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return validate(RunConfig, content, "recipe")

    return write


def with_cuda(monkeypatch, available):
    """For the plan alone: a trainer would look for the devices."""
    here = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: available), get_num_threads=torch.get_num_threads)
    monkeypatch.setattr(plan_module, "torch", here)


@pytest.fixture
def no_cuda(monkeypatch):
    with_cuda(monkeypatch, False)


def measured(monkeypatch, **values):
    """Makes the measurement return these values, and count how often it is asked for."""
    calls = []

    def measure(architecture, dtype, processes):
        calls.append(processes)
        return measure_cpu(architecture, dtype, processes).model_copy(update={"teraflops": 1.0, **values})

    monkeypatch.setattr(plan_module, "measure_cpu", measure)
    monkeypatch.setattr(cpu, "_SECONDS", 1e-4)
    return calls


def hours_of(config, monkeypatch, **values):
    measured(monkeypatch, **values)
    return {stage.name: stage.hours for stage in plan_run(config, dry_run=True).stages}


def test_every_stage_takes_the_tokens_of_the_files_at_the_measured_speed(recipe, model, monkeypatch, no_cuda):
    config = recipe()
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = [
        len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]) for row in PROMPTS
    ]
    human = [
        len(tokenizer.apply_chat_template(row["prompt"] + row[side])["input_ids"])
        for row in PAIRS
        for side in ("chosen", "rejected")
    ]
    prompt, side = sum(prompts) / 6, sum(human) / 20
    weights = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(model).parameters())
    scoring, writing = 0.5e12, 0.25e12
    # 10 seeds, 2 of them for validation; 3 prompts a round, 3 responses each, of 80% of 10 tokens.
    self_side = prompt + 8
    expected = {
        "seed/pairs": 2 * 8 * side * 2 / scoring,
        "validation/pairs": 4 * 2 * 2 * side * 2 / scoring,  # by the reference, and by the policies of rounds 0 to 2
        "heldout/pairs": 5 * 4 * 2 * side * 2 / scoring,  # and by the last policy
        "round-0/policy": 3 * 8 * 2 * side * 8 / scoring,
        "final/policy": 2 * 10 * 2 * side * 8 / scoring,
    }
    for number in (1, 2):
        expected |= {
            f"round-{number}/responses": (3 * prompt + 9 * 8) * 2 / writing,  # a prompt is read once
            f"round-{number}/scores/policy": 9 * self_side * 2 / scoring,
            f"round-{number}/scores/reference": 9 * self_side * 2 / scoring,
            f"round-{number}/policy": 3 * 2 * self_side * 8 / scoring,
        }
    found = hours_of(config, monkeypatch, utilisation=0.5, generation_utilisation=0.25)
    assert {name: hours for name, hours in found.items() if hours} == {
        name: pytest.approx(weights * per_weight / 3600) for name, per_weight in expected.items()
    }


def test_twice_the_measured_speed_is_half_the_time_of_every_stage(recipe, monkeypatch, no_cuda):
    once, twice = (hours_of(recipe(), monkeypatch, teraflops=speed) for speed in (0.1, 0.2))
    timed = [name for name, hours in once.items() if hours is not None]
    assert len(timed) == 13
    assert [once[name] / 2 for name in timed] == pytest.approx([twice[name] for name in timed])


def test_the_speed_is_operations_by_the_time_that_this_thread_works(monkeypatch):
    """A product takes a sixteenth of a second of the thread's clock; no other clock is asked."""
    ticks, products, mm = iter(range(1000)), [], torch.mm
    monkeypatch.setattr(cpu, "time", SimpleNamespace(thread_time=lambda: next(ticks) / 16))
    monkeypatch.setattr(torch, "mm", lambda left, right, out: products.append(mm(left, right, out=out).dtype))
    for dtype, kind in [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.float32)]:
        products.clear()
        found = measure_cpu(SMALL, dtype, 1)
        assert set(products) == {kind}
        assert found.teraflops * 1e12 == pytest.approx(2 * 512 * 576 * 1536 * 16)


def test_processes_are_devices_that_share_the_memory_of_this_machine():
    one, two = (measure_cpu(SMALL, "float32", processes) for processes in (1, 2))
    assert (one.devices, two.devices) == (1, 2)
    assert one.memory_gib == 2 * two.memory_gib
    assert one.memory_gib * 2**30 == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1e-4 < one.teraflops < 100


def test_nothing_is_measured_but_for_a_dry_run_on_a_cpu_without_a_description_of_hardware(
    recipe, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "1000")
    calls, hardware = measured(monkeypatch), {"hardware": {"teraflops": 100, "memory_gib": 80}}
    for sections, cuda, dry, expected in [
        ({}, False, True, [1]),
        ({}, False, False, []),
        ({}, True, True, []),
        (hardware, False, True, []),
        (hardware, True, True, []),
    ]:
        calls.clear()
        with_cuda(monkeypatch, cuda)
        config = recipe(**sections)
        if dry:
            assert main(["run", "--dry-run", "--config", str(tmp_path / "recipe.yaml")]) == 0
            said = capsys.readouterr().out
            assert ("on this machine's" in said) == bool(expected)
            assert ("Sharded over 1 devices" in said) == bool(sections)
            assert ("GiB of activations; " in said) == (not expected)
            assert ("Hours assume" in said) == bool(expected or sections)
        else:
            assert not any(stage.hours for stage in plan_run(config).stages)
        assert calls == expected


def test_the_sentence_has_the_sum_of_the_stages_the_threads_the_speed_and_the_largest_need(
    recipe, monkeypatch, no_cuda
):
    config = recipe(leader={"max_length": 128, "batch_size": 8})
    measured(monkeypatch, teraflops=1e-5, memory_gib=16.0)
    plan = plan_run(config, dry_run=True, processes=2)
    [_, said] = plan.needs
    minutes = 60 * sum(stage.hours or 0 for stage in plan.stages)
    assert minutes > 1
    threads = 2 * torch.get_num_threads()
    assert f"About {math.ceil(minutes):,} min for the stages with hours, on this machine's {threads} threads" in said
    assert "peak memory about 1.2 GiB in each process, in scoring, which fits 16 GiB." in said
    measured(monkeypatch, teraflops=0.19, memory_gib=0.5)
    said = plan_run(config, dry_run=True).needs[1]
    assert "(measured 190 GFLOPS)" in said
    assert "GiB, in scoring, which does not fit 0.5 GiB." in said


def peak(config, *, human=0, pools=(), longest=128, parameters=10**6, architecture=SMALL):
    inputs = SimpleNamespace(architecture=architecture, parameters=parameters, longest=longest, human=human)
    return peak_bytes(config, inputs, Scale(parameters, human, 0, 0, list(pools), 1, 1, 1))


def test_bytes_by_hand(recipe):
    libraries = peak(recipe(), parameters=0, longest=0, architecture=Architecture(0, 0, 0, 0, 0))["training"]
    assert 0.4 * 2**30 < libraries < 1.0 * 2**30
    config = recipe(leader={"max_length": 100, "batch_size": 4, "micro_batch_size": 2})
    found = peak(config, human=8, pools=[6], longest=90)
    tokens, inside = 2 * 2 * 90, 10 * 576 + 4 * 1536
    head = 7 * tokens * 32_768 + 49_152 * 576
    assert found["training"] == libraries + 4 * (4 * 10**6 + tokens * 30 * inside + head)
    slices, reading = 3 * 2**25, 6 * 576 + 3 * 1536
    assert found["scoring"] == libraries + 4 * (10**6 + 18 * 90 * (49_152 + reading) + slices)
    written = 18 * (90 * (2 * 30 * 192 + reading) + 6 * 49_152)
    assert found["generation"] == libraries + 4 * (10**6 + written)
    # 6 prompts have 3 responses, more than 8 pairs have. Rows are cut at max_length; batches at 8,192 tokens and at
    # batch_size rows.
    long, cut = peak(config, human=1000, pools=[1000], longest=900), peak(config, human=1000, longest=100)
    assert long["training"] == cut["training"]
    assert long["scoring"] == libraries + 4 * (10**6 + 8192 * (49_152 + reading) + slices)
    assert long["generation"] == libraries + 4 * (10**6 + 32 * (900 * (2 * 30 * 192 + reading) + 6 * 49_152))


def test_arguments_of_the_trainer_count_in_its_memory(recipe):
    leader = {"max_length": 128, "batch_size": 4}
    sizes = {
        name: peak(recipe(leader={**leader, **more}), parameters=10**8)["training"]
        for name, more in {
            "whole": {},
            "lora": {"lora": {"r": 4}},
            "recomputed": {"trainer": {"activation_checkpointing": True}},
            "by its old name": {"trainer": {"gradient_checkpointing": True}},
        }.items()
    }
    assert sizes["whole"] - sizes["lora"] == 3 * 4 * 10**8
    assert sizes["recomputed"] == sizes["by its old name"]
    # 16 bits are those of activations, and of an adapter's base; whole weights are trained in 32.
    half = {
        name: peak(recipe(model={"path": "m", "dtype": "bfloat16"}, leader={**leader, **more}), parameters=10**8)
        for name, more in {"whole": {}, "lora": {"lora": {"r": 4}}}.items()
    }
    assert half["whole"]["training"] - half["lora"]["training"] == (16 - 2) * 10**8
    inside, tokens = 10 * 576 + 4 * 1536, 8 * 128
    assert sizes["whole"] - sizes["recomputed"] == 4 * tokens * (29 * inside - 30 * 576)


def test_what_a_layer_keeps_is_what_pytorch_saves_for_the_backward_pass():
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6}
    kept = []
    for layers in (2, 4):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=layers, **sizes)).train()
        saved, weights = {}, {weight.untyped_storage().data_ptr() for weight in model.parameters()}

        def pack(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = model.base_model(input_ids=torch.zeros(4, 32, dtype=torch.long)).last_hidden_state
        kept.append(sum(size for place, size in saved.items() if place not in weights))
        del states
    assert (kept[1] - kept[0]) / 2 == pytest.approx(4 * 32 * (10 * 96 + 4 * 160) * 4, rel=0.1)
