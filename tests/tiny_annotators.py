"""Tiny reward models and pair rankers with random weights, saved in the layouts of the published ones."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tiny_model import build_tiny_tokenizer

PREFIXES = {"source_prefix_id": "<|source|>", "cand1_prefix_id": "<|candidate1|>", "cand2_prefix_id": "<|candidate2|>"}


def build_tiny_classifier(
    path: str | Path, *, seed: int = 0, labels: int = 1, chat_template: bool = True, pad: bool = True
) -> Path:
    """Saves a two-layer Llama with a classification head; without `pad` its config names no pad token."""
    tokenizer = build_tiny_tokenizer(chat_template=chat_template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if pad else None,
        num_labels=labels,
    )
    if not pad:
        tokenizer.pad_token = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def build_tiny_encoder(path: str | Path, *, seed: int = 0) -> Path:
    """Saves a one-layer BERT with a head of one output; its tokenizer encodes two segments."""
    tokenizer = _segment_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    model.save_pretrained(path)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(path)
    # A specific class, such as BertTokenizer, would set this.
    file = Path(path) / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": names}), encoding="utf-8")
    return Path(path)


CODE = """
from transformers import BertConfig, BertForSequenceClassification

class TinyConfig(BertConfig):
    model_type = "tiny-with-code"

class TinyModel(BertForSequenceClassification):
    config_class = TinyConfig
"""


def build_classifier_with_code(path: str | Path) -> Path:
    """Saves a tiny classifier that needs code of its own folder, as a Hub repository may ship it."""
    folder = build_tiny_encoder(path)
    (folder / "tiny.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "tiny.TinyConfig", "AutoModelForSequenceClassification": "tiny.TinyModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "tiny-with-code", "auto_map": classes}))
    return folder


def build_tiny_pair_ranker(path: str | Path, *, seed: int = 0, tasks: int = 1) -> Path:
    """Saves a one-layer DeBERTa-v2 and a head under the names of llm-blender/PairRM-hf."""
    folder = Path(path)
    tokenizer = _segment_tokenizer()
    tokenizer.add_tokens(list(PREFIXES.values()))
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in PREFIXES.items()}
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = DebertaV2Model(config)
        head = {
            "head_layer.1.weight": torch.randn(32, 64) / 4,
            "head_layer.1.bias": torch.randn(32) / 4,
            "head_layer.4.weight": torch.randn(tasks, 32) / 4,
            "head_layer.4.bias": torch.randn(tasks) / 4,
        }
    weights = {f"pretrained_model.{name}": value for name, value in encoder.state_dict().items()} | head
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    content = {**config.to_dict(), **ids, "architectures": ["DebertaV2PairRM"], "n_tasks": tasks, "drop_out": 0.05}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def _segment_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that puts [CLS] and [SEP] around its segments."""
    tokenizer = build_tiny_tokenizer(chat_template=False)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)],
    )
    return tokenizer
