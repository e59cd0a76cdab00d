"""The plan of a run on this machine's processors: hours and bytes by hand, what is measured, and when."""

import json
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
from sgpo.plan.cpu import cpu_speed, machine_bytes, measure_operations, peak_bytes
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


def hours_of(config, monkeypatch, operations=1e12):
    monkeypatch.setattr(plan_module, "measure_operations", lambda architecture, dtype: operations)
    return {stage.name: stage.hours for stage in plan_run(config, measure=True).stages}


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
    weights, speed = sum(one.numel() for one in AutoModelForCausalLM.from_pretrained(model).parameters()), 1e12
    read, write, score, train = (share * speed for share in cpu_speed(config, 1.0))
    # 10 seeds, 2 of them for validation; 3 prompts a round, 3 responses each, of 80% of 10 tokens.
    self_side = prompt + 8
    expected = {
        "seed/pairs": 2 * 8 * side * 2 / score,
        "validation/pairs": 4 * 2 * 2 * side * 2 / score,  # by the reference, and by the policies of rounds 0, 1 and 2
        "heldout/pairs": 5 * 4 * 2 * side * 2 / score,  # and by the last policy
        "round-0/policy": 3 * 8 * 2 * side * 8 / train,
        "final/policy": 2 * 10 * 2 * side * 8 / train,
    }
    for number in (1, 2):
        expected |= {
            f"round-{number}/responses": 9 * prompt * 2 / read + 9 * 8 * 2 / write,
            f"round-{number}/scores/policy": 9 * self_side * 2 / score,
            f"round-{number}/scores/reference": 9 * self_side * 2 / score,
            f"round-{number}/policy": 3 * 2 * self_side * 8 / train,
        }
    found = hours_of(config, monkeypatch)
    assert {name: hours for name, hours in found.items() if hours} == {
        name: pytest.approx(weights * per_weight / 3600) for name, per_weight in expected.items()
    }


def test_twice_the_measured_speed_is_half_the_time_of_every_stage(recipe, monkeypatch, no_cuda):
    once, twice = (hours_of(recipe(), monkeypatch, speed) for speed in (1e11, 2e11))
    assert sum(once.values()) > 0
    assert {name: hours / 2 for name, hours in once.items()} == pytest.approx(twice)


def test_the_speed_is_operations_by_the_time_that_this_thread_works(monkeypatch):
    """The clock of the thread says how often the product was made; other clocks do not matter."""
    ticks = iter(range(1000))
    products = []
    clock = SimpleNamespace(thread_time=lambda: next(ticks) / 16)
    monkeypatch.setattr(cpu, "time", clock)
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda left, right, out: products.append(mm(left, right, out=out).dtype))
    for dtype, kind in [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.float32)]:
        products.clear()
        found = measure_operations(SMALL, dtype)
        assert set(products) == {kind}
        # A product takes a sixteenth of a second of that clock.
        assert found == pytest.approx(2 * 512 * 576 * 1536 * 16)


def test_the_speed_of_this_machine_is_measured_in_a_moment():
    assert 1e8 < measure_operations(SMALL, "float32") < 1e14


def test_nothing_is_measured_but_for_a_dry_run_on_a_cpu_without_a_description_of_hardware(
    recipe, tmp_path, capsys, monkeypatch
):
    measured = []
    monkeypatch.setattr(plan_module, "measure_operations", lambda *model: measured.append(model) or 1e12)
    monkeypatch.setenv("COLUMNS", "1000")
    hardware = {"teraflops": 100}
    for sections, cuda, dry, expected in [
        ({}, False, True, 1),
        ({}, False, False, 0),
        ({}, True, True, 0),
        ({"hardware": hardware}, False, True, 0),
        ({"hardware": hardware}, True, True, 0),
    ]:
        measured.clear()
        with_cuda(monkeypatch, cuda)
        config = recipe(**sections)
        if dry:
            assert main(["run", "--dry-run", "--config", str(tmp_path / "recipe.yaml")]) == 0
            said = capsys.readouterr().out
            assert ("on this machine's" in said) == bool(expected)
            assert ("Sharded over 1 devices" in said) == bool(sections)
            assert ("Times assume" in said) == (bool(expected) or bool(sections))
        else:
            assert not any(stage.hours for stage in plan_run(config).stages)
        assert len(measured) == expected


def test_the_time_of_servers_is_not_made_up(recipe, tmp_path, monkeypatch, capsys, no_cuda):
    monkeypatch.setenv("COLUMNS", "1000")
    served = {"backend": "server", "servers": ["http://localhost:1/v1"], "max_new_tokens": 10}
    judge = {"annotator": "judge", "model": "j", "servers": ["http://localhost:1/v1"]}
    found = hours_of(recipe(generation=served, annotation=judge), monkeypatch)
    unknown = {name for name, hours in found.items() if hours is None}
    assert unknown == {f"round-{number}/{stage}" for number in (1, 2) for stage in ("responses", "rewards")}
    assert main(["run", "--dry-run", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert "min, without responses, rewards on this machine's" in capsys.readouterr().out


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
    written = 6 * 2 * (90 * (2 * 30 * 192 + reading) + 6 * 49_152)
    assert found["generation"] == libraries + 4 * (10**6 + written)
    # 6 prompts have 3 responses, more than 8 pairs have. Rows are cut at max_length; batches are cut at 8,192 tokens and at batch_size rows.
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
            "decoupled": {"trainer": {"decoupling": 0.5}},
        }.items()
    }
    assert sizes["whole"] - sizes["lora"] == 3 * 4 * 10**8
    assert sizes["decoupled"] - sizes["whole"] == 4 * 10**8
    assert sizes["recomputed"] == sizes["by its old name"]
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


def test_a_run_that_needs_more_memory_than_there_is_is_noted_also_at_its_start(recipe, monkeypatch, no_cuda):
    config, note = recipe(), "peak memory is about"
    for memory, noted in [(2**40, False), (2**28, True), (None, False)]:
        monkeypatch.setattr(plan_module, "machine_bytes", lambda memory=memory: memory)
        notes = plan_run(config).notes
        assert any(one.startswith(note) and "0.2 GiB" in one for one in notes) == noted, notes
        assert plan_run(config, measure=True).needs[1].count(" of ") == (memory is not None)


def test_the_limit_of_a_container_is_the_memory_of_the_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(cpu, "_LIMIT", limit)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine_bytes() == whole
    for content, expected in [("max\n", whole), ("1048576\n", 2**20), (f"{2 * whole}\n", whole)]:
        limit.write_text(content)
        assert machine_bytes() == expected
