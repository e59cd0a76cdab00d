import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from policy.conversations import PROMPTS, RESPONSES
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.policy import load
from sgpo.policy.load import Policy, load_policy
from sgpo.policy.score import score_responses
from tiny_model import build_tiny_model, build_tiny_tokenizer


@pytest.fixture
def copy(policy_path, tmp_path):
    return shutil.copytree(policy_path, tmp_path / "copy")


def edit_json(file, **changes):
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def refuse(path, **arguments):
    """The message of the refusal, which is one line, whether weights are read or only checked."""
    messages = set()
    for device in ("cpu", "meta"):
        with pytest.raises(InputError) as caught:
            load_policy(path, **{"device": device, **arguments})
        messages.add(str(caught.value))
    [message] = messages
    assert "\n" not in message
    return message


def test_a_directory_loads_as_float32_in_evaluation_mode(policy):
    assert policy.model.dtype == torch.float32
    assert not policy.model.training
    assert policy.context == 256


@pytest.mark.parametrize(("dtype", "found"), [("bfloat16", torch.bfloat16), ("auto", torch.float32)])
def test_dtype_is_the_one_asked_for(policy_path, dtype, found):
    assert load_policy(policy_path, dtype=dtype, device="cpu").model.dtype == found


def test_padding_falls_back_to_the_end_token(copy):
    edit_json(copy / "tokenizer_config.json", pad_token=None)
    tokenizer = load_policy(copy, device="cpu").tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_a_missing_directory_is_refused(tmp_path):
    assert "does not exist; allowed: a directory" in refuse(tmp_path / "nothing")
    assert "does not exist; allowed: a directory" in refuse("./nothing")
    assert "does not exist; allowed: a directory" in refuse("")


def test_a_file_is_refused(copy):
    assert "config.json' is a file; allowed: a directory" in refuse(copy / "config.json")


def test_an_id_that_is_not_here_is_refused_in_one_line_offline():
    message = refuse("nobody/has-this-model")
    assert message.startswith("model 'nobody/has-this-model' (Hugging Face Hub id")


def test_a_missing_config_is_refused(copy):
    (copy / "config.json").unlink()
    assert "has no config.json" in refuse(copy)


def test_a_corrupt_config_is_refused(copy):
    (copy / "config.json").write_text('{"model_type": "llama", ')
    assert "config.json line 1: not valid JSON" in refuse(copy)
    (copy / "config.json").write_text("[]")
    assert "config.json holds a list; allowed: a JSON object" in refuse(copy)


def test_an_unknown_architecture_is_refused(copy):
    edit_json(copy / "config.json", model_type="nonesuch")
    assert "nonesuch" in refuse(copy)


def test_a_model_without_tokenizer_is_refused(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in refuse(copy)


def test_a_corrupt_tokenizer_is_refused(copy):
    (copy / "tokenizer.json").write_text("{")
    assert "tokenizer" in refuse(copy)


def test_a_model_without_chat_template_is_refused(tmp_path):
    path = build_tiny_model(tmp_path / "base", chat_template=False)
    assert "has no chat template" in refuse(path)


def test_a_model_without_end_token_is_refused(copy):
    edit_json(copy / "tokenizer_config.json", eos_token=None)
    assert "has no eos_token" in refuse(copy)


def test_missing_and_corrupt_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in refuse(copy)
    weights.unlink()
    assert "model.safetensors" in refuse(copy)


def test_an_incomplete_checkpoint_is_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 of its weights (first: model.layers.1.mlp.up_proj.weight)" in refuse(copy)


def test_a_check_accepts_what_can_be_loaded_and_reads_no_weight(policy_path, adapter):
    for options in ({}, {"adapter": adapter[0]}, {"dtype": "bfloat16"}):
        checked = load_policy(policy_path, device="meta", **options)
        assert {weight.device.type for weight in checked.model.parameters()} == {"meta"}


def test_arguments_out_of_range_are_refused(policy_path):
    cases = [
        ({"dtype": "float64"}, "dtype is 'float64'; allowed: 'float32', 'bfloat16'"),
        ({"device": "abacus"}, "device is 'abacus'; allowed: 'cpu', 'cuda'"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but this machine has"),
        ({"adapter": "./nothing"}, "adapter './nothing' does not exist"),
    ]
    assert unrefused(lambda case: load_policy(policy_path, **{"device": "cpu", **case}), cases) == {}


@pytest.fixture(scope="module")
def adapter(policy_path, tmp_path_factory):
    """A LoRA adapter with random weights, and the scores of the model that carries it unmerged."""
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("adapter") / "lora"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(policy_path, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(path)
    unmerged = Policy(model.eval(), build_tiny_tokenizer(), "unmerged")
    return path, score_responses(unmerged, PROMPTS, RESPONSES).logps


def test_an_adapter_is_merged_into_its_base(adapter, policy, policy_path):
    path, expected = adapter
    for found in (load_policy(path, device="cpu"), load_policy(policy_path, adapter=path, device="cpu")):
        logps = score_responses(found, PROMPTS, RESPONSES).logps
        np.testing.assert_allclose(logps, expected, rtol=0, atol=1e-3)
        assert not any("lora" in name for name, _ in found.model.named_parameters())
    assert np.abs(expected - score_responses(policy, PROMPTS, RESPONSES).logps).max() > 1


def test_an_adapter_needs_peft(adapter, monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    assert "pip install 'sgpo[peft]'" in refuse(adapter[0])


def test_an_adapter_whose_base_is_gone_is_refused(adapter, tmp_path):
    path = shutil.copytree(adapter[0], tmp_path / "lora")
    edit_json(path / "adapter_config.json", base_model_name_or_path="./gone")
    assert "base model './gone' does not exist" in refuse(path)
    edit_json(path / "adapter_config.json", base_model_name_or_path=None)
    assert "base_model_name_or_path is None" in refuse(path)


def test_a_directory_without_adapter_is_no_adapter(policy_path):
    assert "has no adapter_config.json" in refuse(policy_path, adapter=policy_path)
