"""`sgpo train`: what the trainer can do, from the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from typing import get_args

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, AutoTokenizer

from leader.batches import ROWS
from refusals import unrefused
from sgpo.choices import Schedule, Solver, Space, Step, WindowRule
from sgpo.errors import InputError
from sgpo.leader.scores import REFERENCE_COLUMNS
from sgpo.leader.script import launch, train
from sgpo.leader.trainer import SGPOTrainer
from sgpo.policy.load import load_policy


@pytest.fixture
def command(tmp_path, policy_path):
    def build(*arguments, **columns):
        rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in ROWS]
        for name, values in columns.items():
            rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        line = {
            "model_name_or_path": policy_path, "dataset_name": tmp_path / "pairs.jsonl", "output_dir": tmp_path / "out",
            "use_cpu": True, "bf16": False, "max_steps": 2, "learning_rate": 1e-2, "report_to": "none",
            "dtype": "float32", "dataloader_pin_memory": False, "save_strategy": "no",
        }  # fmt: skip
        return [*(text for name, value in line.items() for text in (f"--{name}", str(value))), *arguments]

    return build


def test_sources_and_weights_come_from_the_file(command, tmp_path, policy_path):
    """Weights of 0 for all but one pair: training is on that pair alone, whatever the others say."""
    sources = ["human", "self"] * 4
    options = ["--source_radius", '{"human": 0, "self": 0.05}', "--schedule", "step"]
    ends = []
    for weights in ([0, 0, 0, 2, 0, 0, 0, 0], [0, 0, 0, 5, 0, 0, 0, 0]):
        train(command(*options, source=sources, weight=weights))
        ends.append(AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict())
    start = AutoModelForCausalLM.from_pretrained(policy_path).state_dict()
    assert any(not torch.equal(start[name], value) for name, value in ends[0].items())
    for name, value in ends[0].items():
        assert torch.equal(ends[1][name], value)


def test_a_lora_run_saves_an_adapter_that_load_policy_merges(command, tmp_path, policy_path):
    train(command("--use_peft", "--lora_r", "4"))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "ref").exists()
    merged = load_policy(tmp_path / "out").model.state_dict()
    start = load_policy(policy_path).model.state_dict()
    changed = {name for name, value in start.items() if not torch.equal(merged[name], value)}
    assert changed and all("_proj" in name for name in changed)


@pytest.mark.parametrize(
    ("arguments", "columns", "said"),
    [
        (["--loss_type", "ipo", "--radius", "0"], {"weight": [1] * 8}, "loss_type is .* with a 'weight' column"),
        (
            ["--source_radius", '{"self": 0.1}'],
            {"source": ["web"] * 8},
            "jsonl line 1: source is 'web'; allowed: 'self'",
        ),
        (["--source_radius", "0.1"], {}, "source_radius is '0.1'; allowed: sources with radii >= 0"),
        (["--radius", "-1"], {}, r"radius is -1\.0; allowed: a number >= 0"),
        (["--radus", "1"], {}, "--radus: unknown argument; see sgpo train --help. Arguments of"),
        (["--accelerate_config", "nothing"], {}, "Accelerate config nothing is neither a file nor"),
        (["--padding_free", "true"], {}, "padding_free is True; allowed: False"),
    ],
)
def test_what_the_trainer_refuses_is_one_message_for_the_user(command, arguments, columns, said):
    with pytest.raises(InputError, match=said):
        train(command(*arguments, **columns))


def turns(role, place):
    """A column of ROWS as messages, to which TRL applies the template."""
    return [[{"role": role, "content": row[place]}] for row in ROWS]


MESSAGES = {"prompt": turns("user", 0), "chosen": turns("assistant", 1), "rejected": turns("assistant", 2)}


def with_template(policy_path, folder, change, eos="<|im_end|>"):
    """The tiny policy with another chat template and end token."""
    shutil.copytree(policy_path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.eos_token = change(tokenizer.chat_template), eos
    tokenizer.save_pretrained(folder)
    return ["--model_name_or_path", str(folder)]


def test_a_training_has_one_date_and_says_what_the_template_does(command, tmp_path, policy_path, monkeypatch, capsys):
    """Microseconds would differ between any two renderings by the clock."""
    dated = "{{ strftime_now('%f') }}"
    options = with_template(policy_path, tmp_path / "dated", lambda text: dated + text)
    prompts = []
    keep = SGPOTrainer._prepare_dataset
    monkeypatch.setattr(
        SGPOTrainer, "_prepare_dataset", lambda *arguments: prompts.append(keep(*arguments)) or prompts[-1]
    )
    train(command(*options, **MESSAGES))
    tokenizer = AutoTokenizer.from_pretrained(policy_path)
    starts = {tokenizer.decode(ids).partition("<|im_start|>")[0] for ids in prompts[0]["prompt_ids"]}
    assert len(starts) == 1
    assert re.search("Note: the chat template of .* renders the date", capsys.readouterr().out)


def test_a_pair_that_the_template_refuses_is_named_by_its_line(command, tmp_path, policy_path):
    third = json.dumps(ROWS[2][0])[1:-1]
    refusing = "{% if messages[0]['content'] == '" + third + "' %}{{ raise_exception('not this') }}{% endif %}"
    options = with_template(policy_path, tmp_path / "refusing", lambda text: refusing + text)
    with pytest.raises(InputError, match=r"pairs\.jsonl line 3: the chat template refuses its turns .*not this"):
        train(command(*options, **MESSAGES))


@pytest.mark.parametrize("by", ["raise_exception('not this')", "1 + 'not this'", "none.split('not this')"])
@pytest.mark.parametrize("which", ["train", "test"])
def test_a_pair_that_the_template_refuses_is_named_with_its_split(command, tmp_path, policy_path, which, by):
    """The template refuses it, or makes a mistake of its own, in the training set or the evaluation set."""
    bad = f"{{% if 'the odd one' in messages[0]['content'] %}}{{{{ {by} }}}}{{% endif %}}"
    options = with_template(policy_path, tmp_path / "refusing", lambda text: bad + text)
    rows = [dict(zip(MESSAGES, row, strict=True)) for row in zip(*MESSAGES.values(), strict=True)]
    odd = [*rows[:5], rows[5] | {"prompt": [{"role": "user", "content": "This is the odd one."}]}]
    sets = {name: Dataset.from_list(odd if name == which else rows) for name in ("train", "test")}
    DatasetDict(sets).save_to_disk(tmp_path / "both")
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "1"]
    line = command(*options, "--dataset_name", str(tmp_path / "both"), *evaluated, **MESSAGES)
    said = rf"both \({which}\) row 5: the chat template refuses its turns \(user, assistant\): "
    with pytest.raises(InputError, match=said):
        train(line)


def test_a_mixture_has_a_name_and_only_the_splits_that_it_makes(command, tmp_path, policy_path):
    refusing = "{{ raise_exception('not this') }}"
    options = with_template(policy_path, tmp_path / "refusing", lambda text: refusing + text)
    (tmp_path / "mixed").mkdir()
    Dataset.from_dict(MESSAGES).to_parquet(tmp_path / "mixed" / "train.parquet")
    config = tmp_path / "mixed.yaml"
    config.write_text(yaml.safe_dump({"datasets": [{"path": str(tmp_path / "mixed")}]}))
    line = command(*options, "--config", str(config))
    place = line.index("--dataset_name")
    cases = [
        ([], r"^datasets \(train\) row 0: the chat template refuses its turns .*not this"),
        (["--eval_strategy", "epoch"], "^datasets has no split 'test'; allowed: train, or test_split_size"),
    ]
    assert unrefused(lambda more: train([*line[:place], *line[place + 2 :], *more]), cases) == {}


def test_a_token_without_a_row_is_found_before_training(command, tmp_path, policy_path):
    options = with_template(policy_path, tmp_path / "small", lambda text: text, eos="<|new|>")
    with pytest.raises(InputError, match=r"uses the id \d+ \('<\|new\|>'\), and the embedding has"):
        train(command(*options, **MESSAGES))


def test_a_token_without_a_row_is_noted_unless_a_pair_holds_it(command, tmp_path, policy_path, capsys):
    options = with_template(policy_path, tmp_path / "small", lambda text: text)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "small")
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(tmp_path / "small")
    train(command(*options, **MESSAGES))
    assert "has unused ids beyond the" in capsys.readouterr().out
    # TRL drops the first row, whose prompt fills max_length.
    long = [[{"role": "user", "content": "bridge " * 200}], *MESSAGES["prompt"][1:]]
    rejected = [*MESSAGES["rejected"][:6], [{"role": "assistant", "content": "<|new|>"}], MESSAGES["rejected"][7]]
    line = command(*options, "--max_length", "128", **{**MESSAGES, "prompt": long, "rejected": rejected})
    with pytest.raises(InputError, match=r"pairs\.jsonl line 7 uses the id \d+ \('<\|new\|>'\), and"):
        train(line)


def test_numbers_of_a_pair_that_are_refused_are_named_by_line(command):
    scores = {column: [0.0, 1.0, "x", *[0.0] * 5] for column in REFERENCE_COLUMNS}
    cases = [
        ({"weight": [1.0] * 5 + [-1.0] * 3}, r"pairs\.jsonl line 6: weight is -1\.0"),
        (scores, r"pairs\.jsonl line 3: ref_chosen_logps is 'x'"),
        ({**MESSAGES, "chat_template_kwargs": [{"a": 1}, None] * 4}, r"jsonl line 2: chat_template_kwargs is null"),
    ]
    assert unrefused(lambda columns: train(command(**columns)), cases) == {}


def test_what_the_parser_refuses_is_one_message_without_the_usage(command, capsys):
    lines = {
        ("--schedule", "never"): "--schedule: invalid choice: 'never' .choose from 'round', 'epoch', 'step'.$",
        ("--radius", "much"): "--radius: invalid float value: 'much'",
        ("--max_steps",): "--max_steps.*: expected one argument",
    }
    assert unrefused(lambda line: train(command(*line)), lines.items()) == {}
    assert capsys.readouterr() == ("", "")


def test_help_lists_the_choices_of_every_named_setting(capsys):
    with pytest.raises(SystemExit):
        train(["--help"])
    shown = capsys.readouterr().out
    assert "Arguments of accelerate launch, such as --num_processes 4" in shown
    for name, choices in (("space", Space), ("step", Step), ("schedule", Schedule), ("solver", Solver),
                          ("window_rule", WindowRule)):  # fmt: skip
        assert f"{{{','.join(get_args(choices))}}}" in shown.split(f"--{name}", 1)[1][:120], name


def test_trls_deprecations_are_not_shown(command):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        train(command())
    assert [warning for warning in shown if warning.category is FutureWarning] == []


@pytest.mark.parametrize(("flags", "ignored"), [(["--ignore_bias_buffers"], ["causal"]), ([], None)])
def test_boolean_buffers_are_left_out_of_synchronisation_if_the_flag_is_given(command, monkeypatch, flags, ignored):
    found = []

    class BufferedTrainer(SGPOTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.model.register_buffer("causal", torch.ones(2, 2, dtype=torch.bool), persistent=False)
            self.model.register_buffer("scale", torch.ones(2), persistent=False)

        def train(self, **options):
            found.append(getattr(self.model, "_ddp_params_and_buffers_to_ignore", None))

    monkeypatch.setattr("sgpo.leader.script.SGPOTrainer", BufferedTrainer)
    train(command(*flags))
    assert found == [ignored]


@pytest.mark.slow
@pytest.mark.parametrize("in_file", [False, True], ids=["command line", "config file"])
def test_arguments_of_the_launcher_train_in_two_processes(command, tmp_path, in_file):
    """With --multi_gpu accelerate starts processes by torch; --use_cpu puts them on gloo."""
    launcher = {
        "num_processes": 2, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no", "main_process_port": 0,
    }  # fmt: skip
    line = command("--logging_steps", "1", "--save_strategy", "steps", "--save_steps", "2", "--multi_gpu")
    if in_file:
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(launcher))
        line += ["--config", str(tmp_path / "train.yaml")]
    else:
        line += [text for name, value in launcher.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sgpo", "train", *line], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Model saved to") == 1
    assert {path.name for path in (tmp_path / "out" / "checkpoint-2").glob("rng_state*")} == {
        "rng_state_0.pth", "rng_state_1.pth",
    }  # fmt: skip


def test_a_failure_in_the_launched_processes_is_the_exit_code(command, capfd):
    launcher = ["--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
    line = command(*launcher, "--dynamo_backend", "no", "--dataset_test_split", "test", "--eval_strategy", "epoch")
    assert train(line) == 1
    assert "is one file; it has no split 'test'" in capfd.readouterr().err


def test_a_launched_process_does_not_launch_again(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match=r"--num_processes 2: unknown argument; .* launcher has already started"):
        launch(["--num_processes", "2"], [])
