"""Whether sampled responses of one token follow the policy's distribution."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats

from sgpo.policy.load import Policy
from sgpo.policy.tokens import Messages, tokenize_prompts


def assert_first_tokens(
    texts: Sequence[str],
    policy: Policy,
    messages: Messages,
    temperature: float,
    top_p: float = 1.0,
    *,
    text_of: Callable[[int], str] | None = None,
) -> None:
    """None lies outside of the nucleus, and a chi-square test finds their frequencies to be the policy's (p > 0.001).

    Texts are compared, since several tokens may be decoded to the same one; `text_of` says what a token leaves of a
    response, if that is not its own text.
    """
    ids = torch.tensor(tokenize_prompts(policy.tokenizer, [messages]))
    with torch.no_grad():
        law = torch.softmax(policy.model(input_ids=ids).logits[0, -1].double() / temperature, dim=-1).numpy()
    order = np.argsort(-law)
    nucleus = order[: np.searchsorted(np.cumsum(law[order]), top_p) + 1]
    expected, observed, n = Counter(), Counter(texts), len(texts)
    for token in nucleus:
        text = policy.tokenizer.decode([token], skip_special_tokens=True) if text_of is None else text_of(int(token))
        expected[text] += law[token] / law[nucleus].sum()
    assert set(observed) - set(expected) == set()
    common = [text for text, share in expected.items() if share * n >= 5]
    counts = [observed[text] for text in common]
    counts.append(n - sum(counts))
    shares = [expected[text] for text in common]
    shares.append(max(1 - sum(shares), 1e-12))
    if shares[-1] * n < 5:
        counts[-2:], shares[-2:] = [sum(counts[-2:])], [sum(shares[-2:])]
    assert stats.chisquare(counts, np.array(shares) / sum(shares) * n).pvalue > 1e-3
