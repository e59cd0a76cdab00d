import numpy as np
import pytest
import torch
from transformers import TopPLogitsWarper

from sgpo.policy.generate import Pick, draw_uniforms, nucleus
from sgpo.policy.sampling import Sampling, prompt_seeds

VOCABULARY = 50


@pytest.fixture
def logits():
    return 2 * torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0))


def pick(sampling, logits, uniforms):
    """The tokens picked from one distribution at R numbers."""
    scores = logits.expand(len(uniforms), -1)
    written = torch.zeros(len(uniforms), dtype=torch.long)
    chosen = Pick(sampling, torch.tensor(uniforms).reshape(-1, 1), written, 1)(torch.zeros(len(uniforms), 1), scores)
    return chosen.argmax(dim=-1).numpy()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_an_even_grid_of_numbers_picks_each_token_by_its_probability(logits, temperature, top_p):
    """The distribution is that of transformers' own warpers."""
    count = 20_000
    picked = pick(Sampling(1, temperature, top_p), logits, (np.arange(count) + 0.5) / count)
    warped = TopPLogitsWarper(top_p)(None, (logits / temperature).unsqueeze(0)) if top_p < 1 else logits / temperature
    law = torch.softmax(warped.double(), dim=-1).flatten().numpy()
    found = np.bincount(picked, minlength=VOCABULARY)
    assert np.abs(found - count * law).max() < 1.01
    assert found[law == 0].sum() == 0


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999])
def test_the_nucleus_is_that_of_transformers_however_many_tokens_it_takes(top_p):
    """Rows of few tokens and of thousands in one batch: 128 are enough for some, all are needed for others."""
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(1)).double()
    logits *= torch.tensor([0.01, 0.5, 1, 3, 10, 100]).unsqueeze(1)
    probabilities = torch.softmax(logits, dim=-1)
    expected = TopPLogitsWarper(top_p)(None, logits) > -torch.inf
    assert torch.equal(nucleus(probabilities, top_p), expected)
    assert expected.sum(dim=-1).min() < 4 and expected.sum(dim=-1).max() > 8 * 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nucleus_is_the_smallest_set_of_whole_levels_that_has_its_share(dtype):
    """Logits of 16 bits tie, so that a set of single tokens would depend on their order."""
    logits = 3 * torch.randn(40, 3000, generator=torch.Generator().manual_seed(2))
    probabilities = torch.softmax(logits.to(dtype).float(), dim=-1)
    for top_p in (1e-46, 0.5, 0.9, 0.99):
        kept = nucleus(probabilities, top_p)
        last = probabilities.where(kept, torch.inf).amin(dim=-1, keepdim=True)
        assert kept.any(dim=-1).all() and torch.equal(kept, probabilities >= last)
        assert (probabilities.where(kept, 0).double().sum(dim=-1) > top_p - 1e-6).all()
        assert (probabilities.where(probabilities > last, 0).double().sum(dim=-1) < top_p + 1e-6).all()


def test_tokens_as_likely_as_the_last_of_a_nucleus_belong_to_it():
    probabilities = torch.tensor([[0.1, 0.4, 0.1, 0.1, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    assert nucleus(probabilities, 0.75).all() and nucleus(probabilities, 0.75, most=1).all()
    assert nucleus(probabilities, 0.6)[0].tolist() == [False, True, False, False, True]


@pytest.mark.parametrize("number", [0.0, 1.0 - 2**-40, 1.0])
def test_a_number_at_the_edge_picks_a_token_of_the_nucleus(number):
    """In float32 a number just below 1 is 1; the first and the last token are outside of this nucleus."""
    logits = torch.full((VOCABULARY,), -20.0)
    logits[10:13] = torch.tensor([0.0, 1.0, 0.5])
    assert pick(Sampling(1, 1.0, 0.9), logits, np.float32([number]))[0] in (10, 11, 12)


def test_a_row_resumes_its_numbers(logits):
    uniforms, sampling = draw_uniforms([(5, 0), (6, 1)], 8), Sampling(1, 1.0)
    processor = Pick(sampling, torch.tensor(uniforms), torch.tensor([0, 3]), 4)
    for step in range(5):
        chosen = processor(torch.zeros(2, 4 + step), logits.expand(2, -1)).argmax(dim=-1)
        assert chosen.tolist() == [
            pick(sampling, logits, uniforms[row, [place]])[0] for row, place in ((0, step), (1, 3 + step))
        ]


def test_numbers_depend_on_seed_and_response_only():
    together = draw_uniforms([(3, 0), (3, 1), (4, 0)], 16)
    alone = np.concatenate([draw_uniforms([seed], 16) for seed in ((3, 0), (3, 1), (4, 0))])
    assert np.array_equal(together, alone)
    assert len({tuple(row) for row in together}) == 3


def test_seeds_of_a_pool_do_not_depend_on_how_it_is_divided():
    whole = prompt_seeds(7, 1000)
    assert prompt_seeds(7, 400) + prompt_seeds(7, 600, first=400) == whole
    assert len(set(whole)) == 1000
    assert min(whole) >= 0 and max(whole) < 2**31
    assert not set(whole) & set(prompt_seeds(8, 1000))
