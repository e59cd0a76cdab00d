"""What is scored of the responses of a round, and what is not."""

from types import SimpleNamespace

import numpy as np
import pytest

from sgpo.config import RunConfig, validate
from sgpo.errors import InputError
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from sgpo.rounds.responses import score_candidates
from tiny_model import CHAT_TEMPLATE, build_tiny_model

NEVER_CLOSES = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Q: {{ m['content'] }}\nA:{% else %}"
    "{{ m['content'].split('</think>')[-1] }}{% endif %}{% endfor %}"
)
CONTEXT = 64


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(build_tiny_model(tmp_path_factory.mktemp("model") / "m", context=CONTEXT), device="cpu")


def score(policy, texts, template=CHAT_TEMPLATE, first=0):
    """The rows of `scores/policy` for the prompts from number `first`, whose responses are `texts`, and the notes."""
    policy.tokenizer.chat_template = template
    prompts = [[{"role": "user", "content": f"Who built bridge {row}?"}] for row in range(first + len(texts))]
    responses = [["A mason."]] * first + texts
    found, done = [], []

    class Rows:
        def __len__(self):
            return len(prompts)

        def __getitem__(self, span):
            return {"prompt": prompts[span], "responses": responses[span]}

    def sharded(name, count, *, open_work, **options):
        with open_work() as work:
            found.append((work, *work.do(range(first, count), done.append)))

    recipe = {"output": "x", "model": {"path": policy.path}, "data": {"seeds": "s", "prompts": "p"}, "rounds": 1}
    run = SimpleNamespace(
        config=validate(RunConfig, recipe, "recipe"),
        load=lambda name: Rows(),
        policy=lambda number: policy,
        fingerprint=str,
        stages=SimpleNamespace(has=lambda name: False, sharded=sharded),
    )
    score_candidates(run, 1)
    assert sum(done) == pytest.approx(2 * len(texts))
    work, columns, notes = found[0]
    return work, columns, notes, prompts[first:]


def test_responses_at_the_limit_of_the_context_are_scored_up_to_it(policy):
    """Closing tokens, and a text that is tokenized again, may exceed what was generated."""
    texts = [["A mason.", "zq" * CONTEXT], ["xj" * 20, "Nobody."]]
    work, columns, notes, prompts = score(policy, texts)
    flat, repeated = [text for row in texts for text in row], [prompt for prompt in prompts for _ in range(2)]
    expected = score_responses(policy, repeated, flat, max_length=CONTEXT)
    np.testing.assert_allclose(columns["logps"], expected.logps, rtol=1e-5)
    assert columns["n_tokens"] == expected.n_tokens.tolist()
    assert notes == {"scored": 4}
    # Pairs are compared by what the recipe says.
    assert work.about["max_length"] == 1024 > CONTEXT


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NEVER_CLOSES])
def test_a_response_without_text_is_not_scored_and_changes_no_other(policy, template):
    texts = [["", "A mason."], [" \n", ""], ["Nobody.", "Of stone."]]
    _, columns, notes, prompts = score(policy, texts, template)
    places = [1, 4, 5]
    expected = score_responses(policy, [prompts[place // 2] for place in places], ["A mason.", "Nobody.", "Of stone."])
    np.testing.assert_allclose(np.array(columns["logps"])[places], expected.logps, rtol=1e-5)
    assert np.delete(columns["logps"], places).tolist() == [0.0] * 3
    assert np.delete(columns["n_tokens"], places).tolist() == [0] * 3
    assert notes == {"scored": 3}


def test_a_response_that_cannot_be_scored_is_named_by_round_and_prompt(policy):
    said = r"^round 1, prompt 6: the chat template leaves \d+ tokens to the prompt and 0 to the response"
    with pytest.raises(InputError, match=said):
        score(policy, [["", ""], ["A mason.", "Hm.</think>"]], NEVER_CLOSES, first=5)
