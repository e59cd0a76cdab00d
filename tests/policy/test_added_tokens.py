"""A tokenizer with more tokens than the model: those in use are refused, unless an adapter brings the rows."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refusals import unrefused
from sgpo.policy.chat import inspect_chat
from sgpo.policy.embed import embed_prompts
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from tiny_model import CHAT_TEMPLATE, CORPUS, build_tiny_model, build_tiny_tokenizer, generate_responses

peft = pytest.importorskip("peft")
# What PEFT says when it saves an embedding of its own accord.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`")
NEW = ["<|think|>", "<|tool|>"]
# How an adapter keeps the rows of added tokens, as arguments of LoraConfig.
KEEPING = {
    "resized": {},
    "trained": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some trained": {"trainable_token_indices": [384, 385]},
    "some of both trained": {"trainable_token_indices": {"embed_tokens": [384, 385], "lm_head": [384, 385]}},
}


def add_tokens(path):
    """The tokenizer with new tokens, which its template writes."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(NEW)
    tokenizer.chat_template = "".join(NEW) + tokenizer.chat_template
    return tokenizer


def write_adapter(folder, base, *, save_embedding_layers="auto", **options):
    """An adapter with random weights for added tokens; returns the logits of the model that it was trained in."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), add_tokens(base)
    model.resize_token_embeddings(len(tokenizer))
    tied = "modules_to_save" in options and model.config.tie_word_embeddings
    options |= {"target_modules": ["q_proj"], "ensure_weight_tying": tied}
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if weights.requires_grad and "lora" not in name:
                weights.add_(torch.linspace(-0.5, 0.5, weights.numel()).view_as(weights))
    adapted.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    tokenizer.save_pretrained(folder)
    with torch.no_grad():
        return adapted.eval()(torch.tensor([[300, 384, 301, 385]])).logits


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request, tmp_path_factory):
    path = build_tiny_model(tmp_path_factory.mktemp("base") / "model")
    model = AutoModelForCausalLM.from_pretrained(path)
    if request.param:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("keeping", KEEPING)
def test_an_adapter_brings_the_rows_of_its_added_tokens(base, tmp_path, keeping):
    trained = write_adapter(tmp_path / "adapter", base, **KEEPING[keeping])
    for options in ({"path": tmp_path / "adapter"}, {"path": base, "adapter": tmp_path / "adapter"}):
        policy = load_policy(**options, device="cpu")
        assert policy.tokenizer.convert_tokens_to_ids(NEW) == [384, 385]
        assert all(weights.requires_grad for weights in policy.model.parameters())
        with policy.inference():
            found = policy.model(torch.tensor([[300, 384, 301, 385]])).logits
        torch.testing.assert_close(found, trained, atol=1e-4, rtol=1e-4)
        assert load_policy(**options, device="meta").model.get_input_embeddings().weight.shape[0] == 386


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_token_without_a_row_is_refused_and_both_numbers_named(tmp_path, device):
    base = build_tiny_model(tmp_path / "base")
    write_adapter(tmp_path / "no-rows", base, save_embedding_layers=False)
    half = tmp_path / "half"
    write_adapter(half, base, save_embedding_layers=False, modules_to_save=["embed_tokens"])
    build_tiny_model(tmp_path / "larger")
    add_tokens(base).save_pretrained(tmp_path / "larger")
    said = r"uses the id 385 \('<\|tool\|>'\), and the embedding has 384 rows; allowed: ids below 384"
    cases = [
        ({"path": tmp_path / "larger"}, f"larger'.*{said}"),
        ({"path": tmp_path / "no-rows"}, f"no-rows'.*{said}.*save_embedding_layers=True"),
        ({"path": base, "adapter": tmp_path / "no-rows"}, f"no-rows'.*{said}"),
        ({"path": half}, r"half' holds .*'lm_head': 0.* allowed: 386 in each"),
    ]
    assert unrefused(lambda options: load_policy(**options, device=device), cases) == {}


def without_rows(folder, change=lambda tokenizer: None, vocab=384):
    """A model of 384 rows whose tokenizer has two tokens more, and what `change` does to it."""
    build_tiny_model(folder)
    tokenizer = build_tiny_tokenizer(vocab=vocab, corpus=[*CORPUS, "A tokenizer of more words has more tokens."])
    tokenizer.add_tokens(NEW)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def write_in(place):
    """A change of the template, which then writes a new token at one place of a conversation."""
    before, mark = {
        "a system turn": ("{{ message['content'] }}", "{% if message['role'] == 'system' %}<|think|>{% endif %}"),
        "a closing": ("<|im_end|>", "<|think|>"),
        "a generation prompt": ("<|im_start|>assistant", "<|think|>"),
    }[place]
    template = CHAT_TEMPLATE.replace(before, mark + before)
    assert template != CHAT_TEMPLATE
    return lambda tokenizer: setattr(tokenizer, "chat_template", template)


def test_each_use_of_a_token_without_a_row_is_refused(tmp_path):
    uses = {name: lambda one, name=name: setattr(one, f"{name}_token", NEW[0]) for name in ("bos", "eos", "pad", "unk")}
    uses |= {place: write_in(place) for place in ("a system turn", "a closing", "a generation prompt")}
    cases = [(without_rows(tmp_path / name, change), r"uses the id 384 .*think") for name, change in uses.items()]
    cases.append((without_rows(tmp_path / "base", vocab=400), r"uses the id 399 .* and the embedding has 384 rows"))
    assert unrefused(lambda path: load_policy(path, device="meta"), cases) == {}


def test_a_token_that_is_not_in_use_needs_no_row_and_a_text_that_holds_it_is_named(tmp_path):
    policy = load_policy(without_rows(tmp_path / "unused"), device="cpu")
    [note] = inspect_chat(policy)
    assert "unused ids beyond the 384 rows of the embedding (2, such as 384 ('<|think|>')): a text" in note
    plain, bad = ([{"role": "user", "content": text}] for text in ("A bridge.", "What does <|tool|> mean?"))
    assert score_responses(policy, [plain], ["Of stone."]).n_tokens[0] > 1
    calls = {
        "a prompt": lambda: score_responses(policy, [plain, bad], ["Yes.", "No."]),
        "a response": lambda: score_responses(policy, [plain, plain], ["Yes.", "No <|tool|>."]),
        "embedded": lambda: embed_prompts(policy, [plain, bad]),
        "answered": lambda: generate_responses(policy, [plain, bad], seed=0),
    }
    said = r"^row 1 uses the id 385 \('<\|tool\|>'\)"
    assert unrefused(lambda name: calls[name](), [(name, said) for name in calls]) == {}


def test_an_embedding_with_more_rows_than_tokens_is_no_fault(tmp_path):
    path = build_tiny_model(tmp_path / "padded")
    model = AutoModelForCausalLM.from_pretrained(path)
    model.resize_token_embeddings(448)
    model.save_pretrained(path)
    assert load_policy(path, device="cpu").model.get_input_embeddings().weight.shape[0] == 448


def test_what_peft_says_of_an_adapter_is_shown_with_its_cause(tmp_path):
    base, other = build_tiny_model(tmp_path / "base"), tmp_path / "adapter"
    write_adapter(other, base, modules_to_save=["norm"])
    (wide := AutoModelForCausalLM.from_pretrained(base)).resize_token_embeddings(500)
    wide.save_pretrained(base)
    cases = [({"path": other}, "Error.s. in loading state_dict for .*: size mismatch for .*embed_tokens.*386.*500")]
    assert unrefused(lambda options: load_policy(**options, device="cpu"), cases) == {}
