"""Every mistake ends in one message that names it, exit code 2, no traceback, and an unharmed disk."""

import json
import sys
from collections import namedtuple

import pytest
import yaml

from sgpo.cli import main
from tiny_annotators import build_classifier_with_code
from tiny_model import build_tiny_model


def change(recipe, **sections):
    content = yaml.safe_load(recipe.read_text())
    for section, values in sections.items():
        content[section] = {**content[section], **values} if isinstance(values, dict) else values
    recipe.write_text(yaml.safe_dump(content))


def refusal(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sgpo ")
    assert "Traceback" not in captured.err
    return captured.err


def run_refusal(capsys, recipe, *overrides) -> str:
    output = recipe.parent / "run"
    before = sorted(output.rglob("*")) if output.exists() else None
    message = refusal(capsys, "run", "--config", str(recipe), *overrides)
    assert (sorted(output.rglob("*")) if output.exists() else None) == before
    return message


def write_rows(recipe, name, rows):
    (recipe.parent / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


PAIR = {"prompt": "Who?", "chosen": "The cat.", "rejected": "Nobody."}


def test_no_recipe(capsys):
    assert "sgpo run: --config is missing; allowed: a recipe" in refusal(capsys, "run", "--dry-run")


def test_missing_recipe(capsys, tmp_path):
    assert "nowhere.yaml cannot be read" in refusal(capsys, "run", "--config", str(tmp_path / "nowhere.yaml"))


def test_unknown_key(capsys, recipe):
    change(recipe, follower={"raduis": 0.1})
    assert "recipe.yaml: unknown key follower.raduis; allowed: radius" in run_refusal(capsys, recipe)


def test_value_out_of_range(capsys, recipe):
    message = run_refusal(capsys, recipe, "follower.radius=-1")
    assert "follower.radius is -1; allowed: a number >= 0, or 'measured' or 'validated'." in message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["follower.space=margin"], "window is None in margin space"),
        (["follower.tangents=null"], "where the link -log p is inf at 0.0"),
        (["follower.window=[1, 0]"], "window is [1.0, 0.0]; allowed: [a, b] with a < b"),
        (["follower.solver=slsqp", "follower.tangents=null", "follower.window=[0.1, 1]"], "tangents is 0 with solver"),
        (["leader.proximal=1"], "proximal is 1.0 with step='envelope'"),
        (["follower.source_radius={self: 0.1}"], "source_radius names self; allowed: human and self"),
        (["annotation.per_token=true", "annotation.length_penalty=1"], "per_token is true with length_penalty 1.0"),
    ],
)
def test_options_that_do_not_go_together(capsys, recipe, overrides, said):
    assert said in run_refusal(capsys, recipe, *overrides)


def test_missing_column(capsys, recipe):
    write_rows(recipe, "seeds.jsonl", [{"prompt": "Who?", "chosen": "The cat."}])
    message = run_refusal(capsys, recipe)
    assert "seeds.jsonl" in message
    assert "rejected" in message


def test_empty_dataset(capsys, recipe):
    write_rows(recipe, "seeds.jsonl", [])
    assert "seeds.jsonl" in run_refusal(capsys, recipe)


def test_pair_of_equal_responses(capsys, recipe):
    write_rows(recipe, "seeds.jsonl", [PAIR, {**PAIR, "rejected": "The cat."}])
    message = run_refusal(capsys, recipe)
    assert "seeds.jsonl" in message
    assert "seeds.jsonl line 2: " in message


def test_invalid_json_names_the_line(capsys, recipe):
    (recipe.parent / "prompts.jsonl").write_text('{"prompt": "Who?"}\n{"prompt"\n')
    assert "prompts.jsonl line 2" in run_refusal(capsys, recipe)


def test_broken_heldout_file_is_found_before_anything_is_trained(capsys, recipe):
    write_rows(recipe, "heldout.jsonl", [{"prompt": "Who?"}])
    assert "heldout.jsonl" in run_refusal(capsys, recipe)


def test_pool_too_small_for_the_rounds(capsys, recipe):
    change(recipe, data={"prompts_per_round": 7})
    assert "holds 12 prompts; allowed: at least 14 for 2 rounds" in run_refusal(capsys, recipe)


def test_more_seeds_than_pairs(capsys, recipe):
    change(recipe, data={"seed_pairs": 9})
    assert "number of seed pairs is 9; allowed: 1 to 8" in run_refusal(capsys, recipe)


def test_model_without_chat_template(capsys, recipe, tmp_path):
    change(recipe, model={"path": str(build_tiny_model(tmp_path / "mute", chat_template=False))})
    assert "has no chat template" in run_refusal(capsys, recipe)


def test_model_that_is_not_there(capsys, recipe, tmp_path):
    change(recipe, model={"path": str(tmp_path / "nobody")})
    assert "does not exist" in run_refusal(capsys, recipe)


def test_pool_of_prompts_longer_than_the_context(capsys, recipe):
    write_rows(recipe, "prompts.jsonl", [{"prompt": "bridge " * 300}] * 12)
    message = run_refusal(capsys, recipe)
    assert "prompts.jsonl: every prompt is too long (the first has" in message


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generation.backend=vllm", f"generation.vllm.python={sys.executable}"], "has no vLLM: install it into an"),
        (["generation.backend=vllm", "generation.vllm.python=/nowhere/python"], "'/nowhere/python' cannot be started"),
        (["annotation.annotator=function", "annotation.function=nowhere.py:rank"], "nowhere.py does not exist"),
        (["annotation.annotator=reward_model", "annotation.model=/nowhere"], "'/nowhere' does not exist"),
        (["annotation.annotator=heads", "annotation.model=/nowhere"], "'/nowhere' does not exist"),
        (
            ["annotation.annotator=judge", "annotation.model=x", "annotation.servers=[http://x/v1]",
             "annotation.template=nowhere.txt"],
            "nowhere.txt cannot be read",
        ),
        (["annotation.annotator=judge", "annotation.model=x", "annotation.servers=[x:1]"], "server 'x:1'; allowed: a"),
        (["generation.backend=server", "generation.servers=[x:1]"], "server 'x:1'; allowed: a base URL"),
        (
            ["generation.backend=server", "generation.servers=[http://x/v1]", "generation.server_command=serve {foo}"],
            "server command 'serve {foo}' has {foo}; allowed: {policy}, {host}, {port}.",
        ),
    ],
)  # fmt: skip
def test_tools_that_are_not_there_are_found_before_anything_is_trained(capsys, recipe, overrides, said):
    assert said in run_refusal(capsys, recipe, *overrides)


def test_a_plan_without_the_package_for_servers_says_how_to_get_it(capsys, recipe, monkeypatch):
    """Brackets in names of packages and files are not markup."""
    monkeypatch.setattr("sgpo.plan.run.find_spec", lambda name: None)
    monkeypatch.setenv("COLUMNS", "400")
    write_rows(recipe, "pool [old].jsonl", [{"prompt": f"What is {number % 11}?"} for number in range(12)])
    servers = ["generation.backend=server", "generation.servers=[http://x/v1]"]
    files = [f"output={recipe.parent / 'run [new]'}", f"data.prompts={recipe.parent / 'pool [old].jsonl'}"]
    assert main(["run", "--config", str(recipe), "--dry-run", *servers, *files]) == 2
    said = capsys.readouterr()
    assert said.err == "sgpo run: servers need the openai package: pip install 'sgpo[server]'.\n"
    assert "/run [new]" in said.out
    assert "pool [old].jsonl repeats 1 of its 12 prompts." in said.out


@pytest.mark.parametrize("missing", ["vLLM", "PEFT", "openai package", "free"])
def test_a_plan_of_what_this_machine_cannot_run_is_printed_and_refused_as_the_run_is(
    capsys, recipe, monkeypatch, missing
):
    overrides = {
        "vLLM": ["generation.backend=vllm", f"generation.vllm.python={sys.executable}"],
        "PEFT": ["leader.lora={}"],
        "openai package": ["generation.backend=server", "generation.servers=[http://x/v1]"],
        "free": [],
    }[missing]
    if missing == "free":
        monkeypatch.setattr("sgpo.plan.run.shutil.disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    monkeypatch.setattr("sgpo.plan.run.find_spec", lambda name: None)
    refused = run_refusal(capsys, recipe, *overrides)
    assert main(["run", "--config", str(recipe), "--dry-run", *overrides]) == 2
    said = capsys.readouterr()
    assert said.err == refused
    assert missing in refused
    assert "Plan of" in said.out


def test_a_wrong_argument_of_lora_is_found_by_the_plan_as_by_the_run(capsys, recipe):
    pytest.importorskip("peft")
    refused = [run_refusal(capsys, recipe, "leader.lora={q: 1}", *more) for more in ([], ["--dry-run"])]
    assert refused[0] == refused[1]
    assert "leader.lora: " in refused[0]
    assert "'q'; allowed: arguments of peft.LoraConfig." in refused[0]
    assert main(["run", "--config", str(recipe), "--dry-run", "leader.lora={r: 1}"]) == 0
    assert "Training all weights (LoRA needs far less) takes about" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("section", ["annotation", "evaluate"])
def test_code_of_a_reward_model_is_found_before_anything_is_trained(capsys, recipe, tmp_path, monkeypatch, section):
    """`model.trust_remote_code` concerns the policy alone."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ranker = {"model": str(build_classifier_with_code(tmp_path / "ranker"))}
    changes = {"annotation": {"annotator": "reward_model", **ranker}}
    if section == "evaluate":
        changes = {"evaluate": [{"kind": "reward", "prompts": str(recipe.parent / "prompts.jsonl"), **ranker}]}
    content = yaml.safe_load(recipe.read_text()) | changes
    content["model"]["trust_remote_code"] = True
    recipe.write_text(yaml.safe_dump(content))
    assert "contains custom code which must be executed" in run_refusal(capsys, recipe, "--dry-run")
    entry = content["annotation"] if section == "annotation" else content["evaluate"][0]
    entry["options"] = {"trust_remote_code": True}
    recipe.write_text(yaml.safe_dump(content))
    assert main(["run", "--config", str(recipe), "--dry-run"]) == 0


def test_unknown_trainer_argument(capsys, recipe):
    change(recipe, leader={"trainer": {"learning_rat": 1}})
    assert "leader.trainer.learning_rat is unknown" in run_refusal(capsys, recipe)


@pytest.mark.parametrize("name", ["beta", "seed", "reference_fingerprint"])
def test_trainer_argument_that_the_recipe_decides(capsys, recipe, name):
    change(recipe, leader={"trainer": {name: 1}})
    assert f"leader.trainer.{name} is decided by the recipe's own keys" in run_refusal(capsys, recipe)


def test_run_directory_of_another_config(capsys, recipe):
    output = recipe.parent / "run"
    output.mkdir()
    (output / "config.yaml").write_text(yaml.safe_dump({"seed": 9}))
    assert "holds a run with another config" in run_refusal(capsys, recipe)


def test_run_directory_that_is_no_run(capsys, recipe):
    output = recipe.parent / "run"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    assert "holds no run" in run_refusal(capsys, recipe)


def test_report_of_a_directory_that_is_no_run(capsys, tmp_path):
    assert str(tmp_path) in refusal(capsys, "report", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("0.1\nnan\n", "gaps"),
        ("0.1\n-inf\n", "gaps"),
        ("0.1\nhello\n", "line 2: 'hello' is not a number"),
        ("", "gaps.txt holds no gaps; allowed: at least one."),
    ],
)
def test_gaps_that_are_no_numbers(capsys, tmp_path, content, said):
    path = tmp_path / "gaps.txt"
    path.write_text(content)
    message = refusal(capsys, "worst-case", str(path), "--radius", "0.1")
    assert "gaps.txt" in message
    assert said in message
    assert f"{tmp_path} is a folder; allowed: text" in refusal(capsys, "worst-case", str(tmp_path), "--radius", "0.1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--radius", "-1"], "worst-case: --radius is -1.0; allowed: a number >= 0"),
        (["--radius", "1", "--tangents", "-1"], "worst-case: --tangents is -1; allowed: a whole number >= 0"),
        (["--radius", "1", "--tangents", "0"], "allowed: ends with a finite link value, or tangents >= 1"),
        (["--radius", "1", "--window", "-3", "3"], "worst-case: --window is -3 3 in probability space; allowed: "),
        (["--radius", "1", "--window", "0", "1.5"], "or --space margin"),
        (
            ["--radius", "1", "--window", "-3", "3", "--space", "probability"],
            "allowed: A B within 0 1, or --space margin",
        ),
        (["--radius", "1", "--window", "1", "0"], "worst-case: --window is 1 0; allowed: A B with A < B."),
        (
            ["--radius", "1", "--space", "margin"],
            "worst-case: --window is missing; --space margin needs it: without one",
        ),
        (
            ["--radius", "1", "--space", "margin", "--window", "1", "3"],
            "gap 1 of FILE is -0.5 in the gap space; allowed: a ",
        ),
        (["--radius", "1", "--window", "0", "0.6"], "--window is 0 0.6 and gap 0 of FILE is 0.6225 in the gap space"),
    ],
)
def test_arguments_of_the_follower_out_of_range(capsys, tmp_path, arguments, said):
    path = tmp_path / "gaps.txt"
    path.write_text("0.5\n-0.5\n")
    refused = refusal(capsys, "worst-case", str(path), *arguments)
    assert said.replace("FILE", str(path)) in refused
    # The file is not to blame for a flag, and the command has no flag that clips.
    assert not refused.startswith(f"sgpo worst-case: {path}") and "clip" not in refused


def test_train_names_an_unknown_key_of_its_config(capsys, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("dataset_name: x\nuse_cpu: true\nbf16: false\nraduis: 0.1\n")
    assert "raduis" in refusal(capsys, "train", "--config", str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "train.yaml cannot be read"),
        ("a: [", "train.yaml: not valid YAML"),
        ("- a", "train.yaml: holds a list; allowed: a mapping"),
        ("radius: 0.1", "--dataset_name and datasets (in a --config file): exactly one of them"),
        (
            "dataset_name: x\nuse_cpu: true\nlr_scheduler_type: cosin",
            "lr_scheduler_type: cosin is not a valid Scheduler",
        ),
        ("dataset_name: x\nuse_cpu: true\noptim: nope", "optim: nope is not a valid OptimizerNames"),
    ],
)
def test_train_names_what_is_wrong_in_its_config(capsys, tmp_path, content, said):
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_text(content)
    assert said in refusal(capsys, "train", "--config", str(path))


def test_train_without_arguments_asks_for_a_dataset(capsys):
    """Not for a machine with another precision, which is what TRL would complain of first."""
    assert "--dataset_name" in refusal(capsys, "train")
    assert "--config needs a file" in refusal(capsys, "train", "--config")


def test_a_value_of_transformers_is_named_with_its_argument(capsys, recipe):
    change(recipe, leader={"lr_scheduler": "cosin"})
    assert "leader: lr_scheduler_type: cosin is not a valid SchedulerType" in run_refusal(capsys, recipe)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--radius", "-1"], "radius is -1.0; allowed"),
        (["--space", "margin"], "window is None"),
        ([], "model_name_or_path is missing"),
        (["--model_name_or_path", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_train_names_an_argument_that_cannot_be(capsys, recipe, arguments, said):
    data = ["--dataset_name", str(recipe.parent / "seeds.jsonl"), "--use_cpu", "--bf16", "False"]
    assert said in refusal(capsys, "train", *data, "--output_dir", str(recipe.parent / "out"), *arguments)


def test_train_needs_a_dataset_of_pairs(capsys, recipe):
    data = ["--dataset_name", str(recipe.parent / "prompts.jsonl"), "--use_cpu", "--bf16", "False"]
    message = refusal(capsys, "train", *data, "--model_name_or_path", "x", "--output_dir", str(recipe.parent / "out"))
    assert "prompts.jsonl" in message
