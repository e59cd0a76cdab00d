"""Stored reference log-probabilities are used when they belong to this reference and these tokens."""

import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from leader.batches import MARGIN, loss_and_gradients, with_stored_scores
from sgpo.errors import InputError
from sgpo.policy.fingerprints import fingerprint_pairs, fingerprint_policy
from sgpo.policy.load import load_policy
from sgpo.policy.score import score_responses
from tiny_model import build_tiny_model

OPTIONS = {"radius": 1.0, **MARGIN}


@pytest.fixture
def scored(make_trainer, pairs, policy_path, reference_path):
    """Pairs scored by the reference, saying so, and the reference's name."""
    data = with_stored_scores(make_trainer(**OPTIONS), pairs)
    name = fingerprint_policy(reference_path)
    prints = fingerprint_pairs(pairs, AutoTokenizer.from_pretrained(policy_path), name, max_length=1024)
    return data.add_column("ref_fingerprint", prints), name


def shifted(data, by=5.0):
    """Scores that are plainly wrong, so that a loss tells whether they were used."""
    values = (np.array(data["ref_chosen_logps"][:]) + by).tolist()
    return data.remove_columns("ref_chosen_logps").add_column("ref_chosen_logps", values)


def test_scores_of_this_reference_on_these_tokens_are_used(make_trainer, scored):
    data, name = scored
    trainer = make_trainer(dataset=data, ref_model=None, reference_fingerprint=name, **OPTIONS)
    assert loss_and_gradients(trainer)[0] == pytest.approx(loss_and_gradients(make_trainer(**OPTIONS))[0], abs=1e-5)


def test_tokens_are_checked_even_if_no_reference_is_named(make_trainer, scored):
    data, _ = scored
    loss_and_gradients(make_trainer(dataset=data, ref_model=None, **OPTIONS))
    with pytest.raises(InputError, match="row 4 was scored on other tokens"):
        make_trainer(dataset=data, ref_model=None, max_length=40, **OPTIONS)


@pytest.mark.parametrize("mistake", ["reference", "tokens", "no proof", "ld_alpha"])
def test_scores_that_do_not_belong_are_computed_again_with_one_warning(make_trainer, scored, mistake):
    data, name = scored
    options = {**OPTIONS, "reference_fingerprint": name}
    if mistake == "reference":
        options["reference_fingerprint"] = "0123456789abcdef"
    elif mistake == "tokens":
        prints = [*data["ref_fingerprint"][:7], f"{name}:0000000000000000"]
        data = data.remove_columns("ref_fingerprint").add_column("ref_fingerprint", prints)
    elif mistake == "no proof":
        data = data.remove_columns("ref_fingerprint")
    else:
        options["ld_alpha"] = 0.5
    with pytest.warns(UserWarning, match="train dataset are not used: .* computed again with ref_model") as said:
        again = make_trainer(dataset=shifted(data), **options)
    assert sum("are not used" in str(warning.message) for warning in said) == 1
    del options["reference_fingerprint"]
    assert loss_and_gradients(again)[0] == pytest.approx(loss_and_gradients(make_trainer(**options))[0], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference_fingerprint": "0123456789abcdef"}, "row 0 was scored by the reference"),
        ({"ld_alpha": 0.5}, "row 0 was scored on other tokens"),
    ],
)
def test_without_a_reference_model_scores_that_do_not_belong_are_refused(make_trainer, scored, change, said):
    with pytest.raises(InputError, match=said):
        make_trainer(dataset=scored[0], ref_model=None, **OPTIONS, **change)


def test_ld_alpha_doubts_scores_that_do_not_say_how_they_were_summed(make_trainer, scored):
    data = scored[0].remove_columns("ref_fingerprint")
    with pytest.raises(InputError, match=r"no column says that they were summed with ld_alpha=0\.5"):
        make_trainer(dataset=data, ref_model=None, ld_alpha=0.5, **OPTIONS)


def test_evaluation_scores_are_checked_too(make_trainer, scored):
    data, name = scored
    prints = [f"{name}:0000000000000000"] * 8
    bad = data.remove_columns("ref_fingerprint").add_column("ref_fingerprint", prints)
    with pytest.raises(InputError, match="of the eval dataset are not used: row 0 was scored on other tokens"):
        make_trainer(dataset=data, ref_model=None, more={"eval_dataset": bad}, **OPTIONS)


def test_an_evaluation_set_without_scores_is_refused(make_trainer, scored, pairs):
    options = {"dataset": scored[0], "ref_model": None, **OPTIONS}
    with pytest.raises(InputError, match="eval dataset stores no reference log-probabilities, and there is no ref_mod"):
        make_trainer(**options).evaluate(pairs)
    with pytest.raises(InputError, match="held_out dataset stores no reference log-probabilities, and there is no ref"):
        make_trainer(**options, more={"eval_dataset": {"seen": scored[0], "held_out": pairs}})


def test_a_loops_own_scores_and_prints_are_what_the_trainer_expects(make_trainer, pairs, policy_path, reference_path):
    """The way a round goes: scores by score_responses, prints by fingerprint_pairs, no reference model."""
    reference, policy = load_policy(reference_path), load_policy(policy_path)
    data = pairs
    for columns, model in ((("ref_chosen_logps", "ref_rejected_logps"), reference),
                           (("chosen_logps", "rejected_logps"), policy)):  # fmt: skip
        for column, side in zip(columns, ("chosen", "rejected"), strict=True):
            texts = [row[0]["content"] for row in pairs[side]]
            data = data.add_column(column, score_responses(model, pairs["prompt"][:], texts).logps.tolist())
    name = fingerprint_policy(reference_path)
    data = data.add_column("ref_fingerprint", fingerprint_pairs(pairs, policy.tokenizer, name, max_length=1024))
    trainer = make_trainer(dataset=data, ref_model=None, reference_fingerprint=name, **OPTIONS)
    assert loss_and_gradients(trainer)[0] == pytest.approx(loss_and_gradients(make_trainer(**OPTIONS))[0], abs=1e-5)


def test_a_policy_is_named_by_its_bytes(tmp_path):
    first = build_tiny_model(tmp_path / "first", seed=0)
    copy = shutil.copytree(first, tmp_path / "copy")
    assert fingerprint_policy(copy) == fingerprint_policy(first)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert fingerprint_policy(copy) != fingerprint_policy(first)
    other_template = shutil.copytree(first, tmp_path / "template")
    (other_template / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert fingerprint_policy(other_template) != fingerprint_policy(first)
    assert fingerprint_policy(first, adapter=copy) not in (fingerprint_policy(first), fingerprint_policy(copy))


def test_a_policy_without_weights_has_no_name(tmp_path):
    with pytest.raises(InputError, match=r"no \*\.safetensors"):
        fingerprint_policy(tmp_path)
    with pytest.raises(InputError, match="neither a folder nor a model"):
        fingerprint_policy("nobody/nothing")
