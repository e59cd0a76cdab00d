"""Names of other libraries that sgpo overrides, or uses beyond their public API, exist as sgpo assumes.

A new version of such a library that renames one fails here, with the file of sgpo that needs it.
"""

import ast
import inspect
import re
from pathlib import Path

import accelerate
import datasets
import datasets.exceptions
import datasets.utils
import datasets.utils.info_utils
import peft
import torch
import transformers
import trl
import trl.cli.accelerate_config
import trl.models.utils
import trl.trainer.utils
from accelerate.commands import launch
from sklearn.linear_model import LogisticRegressionCV
from transformers import cache_utils, trainer_utils
from transformers.utils import chat_template_utils

from sgpo.leader import SGPOTrainer

SOURCE = Path(__file__).parents[2] / "src" / "sgpo"
TRAINER, CALLBACK, CACHE_LAYER = "leader/trainer.py", "leader/robust_loss.py", "policy/kv_cache.py"

# (object, attribute, its parameters, the file that needs it)
CALLED = [
    (trl.DPOTrainer, "__init__", ("self", "model", "ref_model", "args", "data_collator", "train_dataset",
     "eval_dataset", "processing_class", "compute_metrics", "callbacks", "optimizers", "quantization_config",
     "peft_config"), TRAINER),
    (trl.DPOTrainer, "_prepare_dataset", ("self", "dataset", "processing_class", "args", "dataset_name"), TRAINER),
    (trl.DPOTrainer, "_set_signature_columns_if_needed", ("self",), TRAINER),
    (trl.DPOTrainer, "_precompute_ref_logps", ("self", "dataset", "name", "batch_size"), TRAINER),
    (trl.DPOTrainer, "compute_ref_log_probs", ("self", "model", "inputs"), TRAINER),
    (trl.DPOTrainer, "_compute_loss", ("self", "model", "inputs", "return_outputs"), TRAINER),
    (trl.DPOTrainer, "_save_checkpoint", ("self", "model", "trial"), TRAINER),
    (transformers.Trainer, "train", ("self", "resume_from_checkpoint", "trial", "ignore_keys_for_eval"), TRAINER),
    (transformers.Trainer, "get_batch_samples", ("self", "epoch_iterator", "num_batches", "device"), TRAINER),
    (transformers.Trainer, "_get_grad_norm", ("self", "model", "grad_norm"), TRAINER),
    (transformers.Trainer, "_get_output_dir", ("self", "trial"), TRAINER),
    (transformers.Trainer, "_prepare_inputs", ("self", "inputs"), TRAINER),
    (trl.models.utils, "disable_gradient_checkpointing", ("model", "gradient_checkpointing_kwargs"), TRAINER),
    (trl.trainer.utils, "get_config_model_id", ("config",), TRAINER),
    (peft.PeftModel, "delete_adapter", ("self", "adapter_name"), TRAINER),
    (peft.PeftModel, "get_base_model", ("self",), TRAINER),
    (accelerate.utils, "is_peft_model", ("model",), TRAINER),
    (accelerate.Accelerator, "gather_for_metrics", ("self", "input_data", "use_gather_object"), TRAINER),
    (accelerate.Accelerator, "pad_across_processes", ("self", "tensor", "dim", "pad_index", "pad_first"),
     "leader/recent.py"),
    (trainer_utils, "get_last_checkpoint", ("folder",), "leader/guards.py"),
    (transformers.TrainerCallback, "on_train_begin", ("self", "args", "state", "control", "kwargs"), CALLBACK),
    (transformers.TrainerCallback, "on_epoch_begin", ("self", "args", "state", "control", "kwargs"), CALLBACK),
    (transformers.TrainerCallback, "on_step_end", ("self", "args", "state", "control", "kwargs"), CALLBACK),
    (transformers.TrainerCallback, "on_log", ("self", "args", "state", "control", "kwargs"), "leader/guards.py"),
    (trl.TrlParser, "parse_args_and_config", ("self", "args", "return_remaining_strings", "fail_with_unknown_args",
     "separate_remaining_strings"), "leader/script.py"),
    (trl.cli.accelerate_config, "resolve_accelerate_config_argument", ("launch_args",), "leader/script.py"),
    (launch, "launch_command_parser", ("subparsers",), "leader/script.py"),
    (transformers.GenerationMixin, "_supports_default_dynamic_cache", (), CACHE_LAYER),
    (transformers, "DynamicCache", ("ddp_cache_data", "config", "offloading", "offload_only_non_sliding"),
     CACHE_LAYER),
]  # fmt: skip

# (object, attribute, the file that needs it)
PRESENT = [
    (trl.DPOConfig, "_VALID_DICT_FIELDS", "leader/config.py"),
    (trl.DPOTrainer, "_tag_names", TRAINER),
    (trl.DPOTrainer, "_name", TRAINER),
    (trl.DPOTrainer, "_paper", TRAINER),
    (datasets.Dataset.from_dict({}), "_indices", "preferences/layout.py"),
    (trl.ScriptArguments, "ignore_bias_buffers", "leader/script.py"),
    (datasets.exceptions, "DatasetGenerationError", "preferences/source.py"),
    (datasets.utils.info_utils, "NonMatchingSplitsSizesError", "preferences/source.py"),
    (cache_utils, "DynamicLayer", CACHE_LAYER),
    (cache_utils, "DynamicSlidingWindowLayer", CACHE_LAYER),
    # Where these are missing sgpo goes on without them, so that nothing else would fail.
    (chat_template_utils, "datetime", "policy/tokens.py"),
    (transformers.PreTrainedTokenizerFast, "backend_tokenizer", "policy/fingerprints.py"),
    (transformers.LlamaConfig, "max_position_embeddings", "policy/load.py"),
    (transformers.Gemma3nTextConfig, "num_kv_shared_layers", CACHE_LAYER),
    (transformers.DebertaV2Config, "relative_attention", "preferences/annotators/reward_model.py"),
]

# Arguments among others: (object, their names, the file that needs them)
ACCEPTED = [
    (LogisticRegressionCV, ("l1_ratios", "use_legacy_attributes"), "evaluate/length_control.py"),
]

# Attributes that a trainer sets on itself, as they occur in the source of its classes.
SET_BY_A_TRAINER = {
    trl.DPOTrainer: (
        "beta", "ld_alpha", "loss_types", "loss_weights", "precompute_ref_logps", "ref_model", "_metrics",
        "_signature_columns",
    ),
    transformers.Trainer: (
        "model_wrapped", "is_fsdp_enabled", "is_deepspeed_enabled", "data_collator", "state",
    ),
}  # fmt: skip


def test_overridden_and_private_names_of_other_libraries_are_as_sgpo_assumes():
    wrong = []
    for owner, name, parameters, file in CALLED:
        found = getattr(owner, name, None)
        if found is None:
            wrong.append(f"{file}: {owner.__name__}.{name} is gone")
        elif tuple(inspect.signature(found).parameters) != parameters:
            wrong.append(f"{file}: {owner.__name__}.{name} takes {tuple(inspect.signature(found).parameters)}")
    wrong += [f"{file}: {owner.__name__}.{name} is gone" for owner, name, file in PRESENT if not hasattr(owner, name)]
    for owner, names, file in ACCEPTED:
        missing = set(names) - set(inspect.signature(owner).parameters)
        wrong += [f"{file}: {owner.__name__} takes no {name}" for name in missing]
    assert wrong == []


def test_every_row_of_the_tables_names_a_file_that_uses_it():
    """Also an attribute of the trainer that is set and then read."""
    rows = [(name, file) for _, name, *_, file in [*CALLED, *PRESENT]]
    rows += [(name, file) for _, names, file in ACCEPTED for name in names]
    rows += [(name, TRAINER) for names in SET_BY_A_TRAINER.values() for name in names]
    stale = [row for row in rows if not re.search(rf"\b{row[0]}\b", (SOURCE / row[1]).read_text(encoding="utf-8"))]
    assert stale == []


def test_the_trainer_takes_trls_parameters_in_trls_order_and_one_of_its_own():
    ours, theirs = (inspect.signature(trainer.__init__).parameters for trainer in (SGPOTrainer, trl.DPOTrainer))
    expected = [(name, one.kind, one.default) for name, one in theirs.items()]
    found = [(name, one.kind, one.default) for name, one in ours.items()]
    assert found == [*expected, ("worst_cases", inspect.Parameter.KEYWORD_ONLY, None)]


def test_trainers_set_the_attributes_that_sgpo_reads():
    for owner, names in SET_BY_A_TRAINER.items():
        tree = ast.parse(inspect.getsource(inspect.getmodule(owner)))
        targets = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
        assert set(names) - targets == set(), f"{TRAINER}: {owner.__name__} no longer sets these"


def tiny_llama():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=8, **sizes))


def test_a_cache_layer_holds_keys_and_values():
    cache = transformers.DynamicCache()
    tiny_llama()(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache, use_cache=True)
    assert all(layer.keys.shape == layer.values.shape == (1, 1, 3, 8) for layer in cache.layers), CACHE_LAYER


def test_the_fused_head_returns_log_probabilities_and_the_backbone_hidden_states():
    model, ids = tiny_llama(), torch.tensor([[1, 2, 3]])
    expected = torch.log_softmax(model(input_ids=ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    trl.trainer.utils.add_fused_lm_head(model)
    outputs = model(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True)
    torch.testing.assert_close(outputs.log_probs, expected)
    assert model.base_model(input_ids=ids).last_hidden_state.shape == (1, 3, 8), "leader/decoupling.py"


def test_every_override_of_the_trainer_is_in_the_table():
    """A method of SGPOTrainer that one of its bases has, too."""
    source = ast.parse((SOURCE / TRAINER).read_text(encoding="utf-8"))
    ours = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "SGPOTrainer")
    overridden = {
        node.name for node in ours.body if isinstance(node, ast.FunctionDef) and hasattr(trl.DPOTrainer, node.name)
    }
    assert overridden - {name for _, name, *_ in CALLED} == set()


def test_every_private_name_that_sgpo_calls_on_an_upstream_object_is_in_the_table():
    listed = {name for _, name, *_ in [*CALLED, *PRESENT]} | {
        name for names in SET_BY_A_TRAINER.values() for name in names
    }
    # A named tuple's, and one that DistributedDataParallel reads and nothing defines.
    listed |= {"_asdict", "_replace", "_fields", "_ddp_params_and_buffers_to_ignore"}
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = own_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr) and node.attr not in listed:
                if ast.unparse(node.value) == "super()" or node.attr not in own:
                    found[node.attr] = str(path.relative_to(SOURCE))
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("sgpo"):
                private = {one.name for one in node.names if re.match("_(?!_)", one.name)} - listed
                found |= {name: str(path.relative_to(SOURCE)) for name in private}
    assert found == {}


def own_names(tree):
    """Names that a module makes: functions, variables, and attributes of `self`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            names.add(node.attr)
    return names
