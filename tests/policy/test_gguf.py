"""GGUF files: what they hold is what is saved, and what cannot be converted leaves nothing behind."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from example_scripts import load_example
from policy.conversations import PROMPTS
from refusals import unrefused
from sgpo.errors import InputError
from sgpo.policy import gguf as converting
from sgpo.policy.gguf import GGUFFile
from sgpo.policy.load import load_policy
from sgpo.policy.tokens import end_tokens, tokenize_prompts
from tiny_gguf import write_gguf
from tiny_model import build_tiny_model

TEXTS = ["What's the 1234th bridge?  It's  old.\n\n\tA café, 你好, 🙂", " <|im_start|>user\nhi<|im_end|>", ""]


@pytest.fixture(scope="module")
def whole(policy_path, tmp_path_factory):
    return write_gguf(policy_path, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))


def opened(file, dtype="float32"):
    return GGUFFile(str(file.parent), file.name, dtype)


def convert(file, folder, dtype="float32"):
    opened(file, dtype).save(folder)
    return load_policy(folder, dtype="auto", device="cpu")


def test_a_model_in_float32_comes_back_as_it_was(policy, whole, tmp_path):
    """Weights, tokens, template and end tokens; transformers adds an unused token of GPT-2's to any vocabulary."""
    again = convert(whole, tmp_path / "model")
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    ids = torch.arange(3, 67).reshape(2, 32)
    with policy.inference(), again.inference():
        assert torch.equal(policy.model(ids).logits, again.model(ids).logits)
    for text in TEXTS:
        assert policy.tokenizer(text)["input_ids"] == again.tokenizer(text)["input_ids"], text
    assert tokenize_prompts(policy.tokenizer, PROMPTS) == tokenize_prompts(again.tokenizer, PROMPTS)
    assert again.tokenizer.get_vocab().items() >= policy.tokenizer.get_vocab().items()
    for one in (policy, again):
        assert end_tokens(one.tokenizer, one.model.generation_config.eos_token_id) == [2]
        assert (one.tokenizer.pad_token_id, one.context) == (0, 256)
    content = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path"} & set(content)


def test_a_sketch_has_all_but_the_weights(whole, tmp_path):
    again, sketch = convert(whole, tmp_path / "model"), opened(whole).sketch()
    shapes = [{name: one.shape for name, one in each.model.state_dict().items()} for each in (again, sketch)]
    assert shapes[0] == shapes[1] and sketch.device.type == "meta"
    own = {"dtype": None, "architectures": None, "_name_or_path": None}
    configs = [{**each.model.config.to_dict(), **own} for each in (again, sketch)]
    assert configs[0] == configs[1]
    assert sketch.model.generation_config.eos_token_id == again.model.generation_config.eos_token_id
    assert sketch.tokenizer.get_vocab() == again.tokenizer.get_vocab()
    assert sketch.tokenizer.chat_template == again.tokenizer.chat_template


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_every_block_type_is_saved_as_it_is_de_quantised(policy, policy_path, kind, tmp_path):
    """Checked on a matrix whose rows llama.cpp does not reorder."""
    again = convert(write_gguf(policy_path, tmp_path / "model.gguf", kind=kind), tmp_path / "model")
    stored, name = gguf.GGMLQuantizationType[kind], "model.layers.1.mlp.down_proj.weight"
    expected = gguf.dequantize(gguf.quantize(policy.model.state_dict()[name].numpy(), stored), stored)
    assert np.array_equal(again.model.state_dict()[name].numpy(), expected)
    assert not np.array_equal(expected, policy.model.state_dict()[name].numpy())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_weights_are_saved_in_the_dtype_of_training(policy, policy_path, whole, dtype, tmp_path):
    again = convert(whole, tmp_path / "model", dtype)
    assert again.model.dtype == again.model.config.dtype == getattr(torch, dtype)
    for name, weight in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(weight, policy.model.state_dict()[name].to(getattr(torch, dtype))), name


def test_tied_embeddings_are_saved_once(policy_path, tmp_path):
    """A GGUF without output weights has those of the embedding."""
    again = convert(write_gguf(policy_path, tmp_path / "tied.gguf", without="output.weight"), tmp_path / "model")
    assert again.model.config.tie_word_embeddings
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")


def test_responses_also_end_at_the_tokens_that_end_a_turn_or_a_message(policy_path, tmp_path):
    """Gemma's end token is <eos>, and its turns end with another: transformers reads only the first."""
    fields = {"tokenizer__ggml__eot_token_id": 1, "tokenizer__ggml__eom_token_id": 0}
    again = convert(write_gguf(policy_path, tmp_path / "model.gguf", **fields), tmp_path / "model")
    assert again.model.generation_config.eos_token_id == [0, 1, 2]
    assert again.tokenizer.eos_token_id == 2


def test_files_beside_the_file_are_another_models(policy, whole, tmp_path):
    build_tiny_model(tmp_path / "both", seed=5, vocab=300)
    (tmp_path / "both" / "chat_template.jinja").write_text("another")
    (tmp_path / "both" / "adapter_config.json").write_text("{}")
    again = convert(shutil.copy(whole, tmp_path / "both") and tmp_path / "both" / whole.name, tmp_path / "model")
    assert again.tokenizer.chat_template == policy.tokenizer.chat_template
    assert torch.equal(again.model.lm_head.weight, policy.model.lm_head.weight)


def test_what_becomes_of_the_weights_is_said(policy_path, whole, tmp_path):
    """A block of Q8_0 has 32 weights of 8 bits and a scale of 16: 8.5 bits, a little more with the vectors."""
    said = opened(whole, "auto").describe()
    assert said == "tiny.gguf: 32.0 bits a weight become float32 in a model folder."
    write_gguf(policy_path, tmp_path / "q8.gguf", kind="Q8_0")
    said = opened(tmp_path / "q8.gguf", "bfloat16").describe()
    assert "q8.gguf: 8.6 bits a weight become bfloat16" in said and "not the original model" in said


def test_a_file_is_converted_once_per_content_and_dtype(whole, tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    shutil.copy(whole, tmp_path / "copy" / "other.gguf")
    first = opened(whole).cached()
    assert first != opened(whole, "bfloat16").cached()
    monkeypatch.setattr(GGUFFile, "save", None)
    assert opened(tmp_path / "copy" / "other.gguf", "auto").cached() == first


def test_an_interrupted_conversion_leaves_no_folder(whole, tmp_path, monkeypatch):
    def stop(self, folder):
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(GGUFFile, "save", stop)
        opened(whole).cached()
    assert [path.suffix for path in (tmp_path / "cache" / "sgpo-gguf").iterdir()] == [".lock"]
    assert load_policy(opened(whole).cached(), device="cpu")


def test_files_that_are_no_policy_are_refused_and_leave_nothing(policy_path, tmp_path):
    def write(name, **changes):
        return write_gguf(policy_path, tmp_path / name, **changes).name

    (tmp_path / "empty.gguf").touch()
    (tmp_path / "text.gguf").write_text("not a GGUF file, but longer than a header of one")
    (tmp_path / "folder.gguf").mkdir()
    cases = [
        ("missing.gguf", "no file 'missing.gguf'; allowed: .*empty.gguf"),
        ("folder.gguf", "no file 'folder.gguf'"),
        ("empty.gguf", "GGUF file .*empty.gguf.* cannot be loaded: cannot mmap an empty file"),
        ("text.gguf", "cannot be loaded: GGUF magic"),
        (write("vision.gguf", architecture="clip"), "architecture clip is not supported"),
        (write("encoder.gguf", architecture="t5"), "GGUF file .*encoder.gguf.* cannot be loaded"),
        (
            write("no-template.gguf", tokenizer__chat_template=None),
            "no-template.gguf.*no chat template; allowed: .*gguf-new-metadata",
        ),
        (write("no-end.gguf", tokenizer__ggml__eos_token_id=None), "no eos_token"),
        (write("no-tokens.gguf", tokenizer__ggml__tokens=None), "no-tokens.gguf.* cannot be loaded"),
        (write("other-tokens.gguf", tokenizer__ggml__model="bert"), "cannot be loaded: .*bert"),
        (write("layer.gguf", without="blk.1."), "lacks 9 weights"),
        (write("vocabulary.gguf", without=("token_embd", "output", "blk")), "holds no weights"),
        (write("sizes.gguf", llama__embedding_length=64), "sizes.gguf.* cannot be loaded"),
    ]
    assert unrefused(lambda name: GGUFFile(str(tmp_path), name, "float32").save(tmp_path / "model"), cases) == {}
    assert not (tmp_path / "model").exists()


def test_weights_of_a_type_that_cannot_be_de_quantised_are_refused(policy_path, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "q8_k.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q8_K
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"q8_k\.gguf.*Q8_K is not yet implemented"):
        opened(tmp_path / "q8_k.gguf")


def test_a_file_that_was_cut_anywhere_is_refused(whole, tmp_path):
    content = whole.read_bytes()
    for cut in np.linspace(1, len(content) - 1, 40, dtype=int):
        (tmp_path / "cut.gguf").write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"cut\.gguf.*must be complete.* cannot be loaded"):
            opened(tmp_path / "cut.gguf")


def test_a_missing_package_is_named_with_its_extra(whole, monkeypatch):
    monkeypatch.setattr(converting, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs gguf.*pip install 'sgpo\[gguf\]'"):
        opened(whole)


def test_a_path_that_needs_gguf_file_says_so(whole):
    for path in (whole, whole.parent):
        with pytest.raises(InputError, match="gguf_file"):
            load_policy(path, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_exported_policy_is_read_back_as_it_was(policy_path, tmp_path, dtype):
    """Its weights with the metadata of its quantised base; llama.cpp wants vectors in float32."""
    build_tiny_model(tmp_path / "trained", seed=1)
    trained = load_policy(tmp_path / "trained", dtype=dtype, device="cpu")
    trained.model.save_pretrained(tmp_path / "trained")
    like = write_gguf(policy_path, tmp_path / "base.gguf", kind="Q8_0", general__file_type=7)
    exported = tmp_path / "policy.gguf"
    line = [str(tmp_path / "trained"), "--like", str(like), "--output", str(exported)]
    assert load_example("export_gguf").main(line) == 0
    again = convert(exported, tmp_path / "again", dtype)
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    readers = [opened(tmp_path / file.name).header for file in (like, exported)]
    fields = [{name: field.contents() for name, field in reader.fields.items()} for reader in readers]
    assert fields[0].pop("general.file_type") == 7
    assert fields[1].pop("general.file_type") == {"float32": 0, "float16": 1, "bfloat16": 32}[dtype]
    assert fields[0] == fields[1]
    kinds = {len(one.shape): one.tensor_type.name for one in readers[1].tensors}
    assert kinds == {1: "F32", 2: {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]}


def test_a_policy_is_exported_only_like_its_own_base(policy_path, tmp_path, capsys):
    build_tiny_model(tmp_path / "other", vocab=300)
    layers = write_gguf(policy_path, tmp_path / "layers.gguf", without="blk.1.")
    for policy, like, said in (
        (tmp_path / "other", write_gguf(policy_path, tmp_path / "base.gguf"), "differ in output.weight (300, 32)"),
        (policy_path, write_gguf(policy_path, tmp_path / "gemma.gguf", architecture="gemma2"), "architecture 'gemma2'"),
        (policy_path, layers, "differ in blk.1."),
    ):
        line = [str(policy), "--like", str(like), "--output", str(tmp_path / "out.gguf")]
        assert load_example("export_gguf").main(line) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*out.gguf*"))
