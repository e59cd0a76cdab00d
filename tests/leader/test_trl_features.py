"""What TRL's trainer offers keeps working under the robust loss."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trl
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands import launch
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, TrlParser

from leader.batches import (
    MARGIN,
    PROBABILITY,
    assert_same_gradients,
    loss_and_gradients,
    with_stored_scores,
)
from sgpo.errors import InputError
from sgpo.leader import SGPOConfig
from sgpo.robust.exact import worst_case

DOCS = Path(__file__).parents[2] / "docs" / "leader.md"
EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING = {"radius": 2.0, "max_steps": 3, **MARGIN}


class Losses(TrainerCallback):
    """Keeps every record that the trainer logs, as a tracker does."""

    def __init__(self):
        self.records = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.records.append(dict(logs))


def trained(make_trainer, **options):
    trainer = make_trainer(**({} if "space" in options else MARGIN), **{"radius": 2.0, "max_steps": 3, **options})
    trainer.train()
    return trainer


def losses(trainer):
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


def test_precomputed_references_change_nothing(make_trainer, pairs, tmp_path):
    pairs.save_to_disk(tmp_path / "pairs")
    live, precomputed = (trained(make_trainer, precompute_ref_log_probs=flag) for flag in (False, True))
    np.testing.assert_allclose(losses(live), losses(precomputed), atol=1e-5)


def test_activation_checkpointing_changes_no_gradient(make_trainer):
    plain, saved = (trained(make_trainer, activation_checkpointing=flag) for flag in (False, True))
    np.testing.assert_allclose(losses(plain), losses(saved), atol=1e-6)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(saved.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", ["envelope", "transport", "mixture"])
def test_bfloat16_autocast_stays_near_float32(make_trainer, step):
    options = {"radius": 0.1, "step": step, **PROBABILITY}
    full, half = (trained(make_trainer, bf16=flag, **options) for flag in (False, True))
    assert losses(half) != losses(full)
    np.testing.assert_allclose(losses(half), losses(full), atol=0.05)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_ld_alpha_weighs_the_gaps_of_the_follower_as_it_weighs_trls(make_trainer, alpha):
    dpo = make_trainer(DPOTrainer, DPOConfig, ld_alpha=alpha)
    loss_and_gradients(dpo)
    margins = trls_margins(make_trainer, ld_alpha=alpha)
    trainer = make_trainer(radius=2.0, ld_alpha=alpha, **MARGIN)
    loss, _ = loss_and_gradients(trainer)
    assert loss == pytest.approx(worst_case(margins, 2.0, window=(-20, 20)).value, abs=1e-5)
    tiny = loss_and_gradients(make_trainer(radius=1e-9, ld_alpha=alpha, **MARGIN))
    theirs = loss_and_gradients(make_trainer(DPOTrainer, DPOConfig, ld_alpha=alpha))
    assert tiny[0] == pytest.approx(theirs[0], abs=1e-6)
    assert_same_gradients(tiny[1], theirs[1], 1e-5)


def trls_margins(make_trainer, **options):
    """Gaps pair by pair, from TRL's own reward metrics."""
    trainer = make_trainer(DPOTrainer, DPOConfig, **options)
    margins = []
    for row in range(8):
        trainer._metrics["train"].clear()
        loss_and_gradients(trainer, trainer.data_collator([trainer.train_dataset[row]]))
        margins.append(trainer._metrics["train"]["rewards/margins"][0])
    return np.array(margins)


def test_evaluation_is_the_robust_loss_on_its_own_pairs(make_trainer, pairs):
    trainer = make_trainer(
        **TRAINING, more={"eval_dataset": pairs.select(range(4))}, eval_strategy="steps", eval_steps=1,
        per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer.train()
    records = [record for record in trainer.state.log_history if "eval_loss" in record]
    assert len(records) == 3
    for record in records:
        assert record["eval_loss"] == pytest.approx(record["eval_robust/value"], abs=1e-5)
        assert record["eval_robust/price"] == trainer.worst_cases["all"].price


def test_evaluation_between_steps_does_not_touch_the_follower(make_trainer, pairs):
    options = {"schedule": "step", "per_device_train_batch_size": 4}
    with_evaluation = trained(
        make_trainer, **options, more={"eval_dataset": pairs.select(range(4))}, eval_strategy="steps", eval_steps=1
    )
    assert losses(with_evaluation) == losses(trained(make_trainer, **options))


def test_several_evaluation_sets_keep_their_names(make_trainer, pairs):
    trainer = make_trainer(**TRAINING, more={"eval_dataset": {"a": pairs.select([0, 1]), "b": pairs.select([2])}})
    assert {"eval_a_loss", "eval_b_loss"} <= set(trainer.evaluate())


def test_a_tracker_receives_what_is_logged(make_trainer):
    tracker = Losses()
    trained(make_trainer, more={"callbacks": [tracker]})
    robust = {"value", "price", "moved_share", "outside", "window_low", "window_high"}
    for record in tracker.records[:3]:
        assert {f"robust/{name}" for name in robust} <= set(record)
        assert "rewards/margins" in record


def test_the_model_card_names_the_method_and_its_paper(make_trainer, tmp_path):
    trainer = trained(make_trainer, save_strategy="steps", save_steps=1)
    card = (tmp_path / "out" / "checkpoint-1" / "README.md").read_text() if (
        tmp_path / "out" / "checkpoint-1" / "README.md"
    ).exists() else (tmp_path / "out" / "README.md").read_text()  # fmt: skip
    header = yaml.safe_load(card.split("---")[1])
    assert {"trl", "dpo", "sgpo"} <= set(header["tags"])
    assert "SGPO" in card and "2502.18099" in card and "chu2025stackelberg" in card
    assert {"trl", "dpo", "sgpo"} <= set(trainer.model.model_tags)


def test_push_to_hub_uploads_a_policy_and_its_card(make_trainer, monkeypatch):
    """The Hub's boundary is replaced: what would be sent is looked at instead."""
    sent = {}

    class Hub:
        def create_repo(self, name, **options):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, *, repo_id, folder_path, **options):
            sent[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}
            return repo_id

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    trainer = trained(make_trainer, hub_model_id="someone/policy")
    trainer.push_to_hub()
    files = sent["someone/policy"]
    assert "model.safetensors" in files and "tokenizer.json" in files
    assert b"sgpo" in files["README.md"]


def test_a_checkpoint_holds_no_pickle_of_ours(make_trainer, tmp_path):
    trained(make_trainer, save_strategy="steps", save_steps=3, schedule="epoch")
    ours = [path.name for path in (tmp_path / "out" / "checkpoint-3").iterdir() if "sgpo" in path.name]
    assert ours == ["sgpo_follower.safetensors"]


def launched_environment(path, monkeypatch):
    """Sets the environment that `accelerate launch` would give a process; to run one would take several GPUs."""
    launched = []
    monkeypatch.setattr(launch, "multi_gpu_launcher", lambda args: launched.append(prepare_multi_gpu_env(args)))
    monkeypatch.setattr(launch, "deepspeed_launcher", lambda args: launched.append(prepare_deepspeed_cmd_env(args)[1]))
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(path), "-m", "sgpo", "run"]))
    (environment,) = launched
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def test_accelerate_makes_of_trls_configurations_what_the_manual_says(monkeypatch):
    expected = {
        "fsdp1": ("FSDP_VERSION", "1"), "fsdp2": ("FSDP_VERSION", "2"),
        "zero2": ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), "zero3": ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"),
    }  # fmt: skip
    for name, (variable, value) in expected.items():
        path = Path(trl.__file__).parent / "accelerate_configs" / f"{name}.yaml"
        with monkeypatch.context() as context:
            assert launched_environment(path, context)[variable] == value, name
        assert name in DOCS.read_text(), name


@pytest.mark.filterwarnings("ignore:.*fsdp.*:UserWarning", "ignore:.*FSDP.*:FutureWarning")
def test_our_fsdp_configuration_shards_layers_and_gathers_whole_weights(monkeypatch):
    launched_environment(EXAMPLES / "fsdp.yaml", monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.cpu_ram_efficient_loading


def test_gaps_are_not_measured_on_a_model_that_is_about_to_be_sharded(make_trainer, monkeypatch):
    """Transformers finds the plugin by itself; accelerate keeps one only where there are GPUs."""
    trainer = make_trainer(**TRAINING)
    launched_environment(EXAMPLES / "fsdp.yaml", monkeypatch)
    monkeypatch.setattr(AcceleratorState, "fsdp_plugin", FullyShardedDataParallelPlugin(), raising=False)
    trainer.create_accelerator_and_postprocess()
    assert trainer.is_fsdp_enabled
    with pytest.raises(InputError, match=r"about to be sharded .*; allowed: the columns chosen_logps"):
        trainer.train()


def test_command_line_and_code_make_the_same_configuration(tmp_path):
    values = {
        "step": "mixture", "proximal": 0.5, "schedule": "step", "recent_pairs": 64, "space": "margin", "tangents": 4,
        "window_rule": "quantiles", "window_margin": 0.5, "window_quantiles": [0.1, 0.9],
        "source_radius": {"human": 0, "self": 0.05}, "reference_fingerprint": "0123456789abcdef", "guards": False,
    }  # fmt: skip
    line = ["--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    for name, value in values.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        line += [f"--{name}", *(map(str, text) if isinstance(text, list) else [str(text)])]
    (parsed,) = TrlParser((SGPOConfig,)).parse_args_and_config(line)
    for name, value in values.items():
        assert getattr(parsed, name) == value, name
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"output_dir": str(tmp_path), "use_cpu": True, **values}))
    (from_file,) = TrlParser((SGPOConfig,)).parse_args_and_config(["--config", str(tmp_path / "train.yaml")])
    for name, value in values.items():
        assert getattr(from_file, name) == value, name


def test_a_configuration_survives_its_own_dictionary(make_arguments):
    first = make_arguments(SGPOConfig, window_rule="min_max", window_margin=0.1, source_radius={"self": 0.1})
    fields = {name: getattr(first, name) for name in ("window", "window_rule", "window_margin", "source_radius")}
    assert {name: getattr(make_arguments(SGPOConfig, **fields), name) for name in fields} == fields


def test_stored_scores_leave_no_reference_model_in_memory(make_trainer, pairs):
    stored = make_trainer(dataset=with_stored_scores(make_trainer(**TRAINING), pairs), ref_model=None, **TRAINING)
    assert stored.ref_model is None
