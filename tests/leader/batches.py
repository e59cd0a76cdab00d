"""Pairs of real conversations, and what a trainer makes of all of them at once."""

import torch
from datasets import Dataset

ROWS = [
    ("Where is the bridge?", "The bridge is in the north of the town.", "I do not know."),
    ("What is the sky?", "The sky is blue in the morning.", "The sky is a cat."),
    ("Write a poem.", "A cat sleeps on the roof of a quiet house.", "Poem."),
    ("Thank you!", "You are welcome.", "Thank thank thank you you you."),
    ("Tell me about stone.", "Stone is old, and a bridge is built of it.", "Stone is red at night."),
    ("Who built it?", "The town built it.", "It was built of river."),
    ("How old is it?", "It is very old.", "Please."),
    ("Is the river quiet?", "Yes, the river is quiet.", "No, the river is a poem about a question."),
]

MARGIN = {"space": "margin", "tangents": 0, "window": [-20.0, 20.0]}
PROBABILITY = {"space": "probability", "tangents": 6}


def make_pairs(rows=ROWS):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
            for prompt, chosen, rejected in rows
        ]
    )


def whole_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))])


def loss_and_gradients(trainer, inputs=None):
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs or whole_batch(trainer))
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in trainer.model.named_parameters() if value.grad is not None}
    return loss.item(), gradients


def assert_same_gradients(first, second, tolerance):
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], rtol=tolerance, atol=tolerance)


def batch_margins(trainer):
    """Gaps of the whole batch with their graph, from per-token log-probabilities that nobody else computed."""
    inputs = whole_batch(trainer)

    def logps(model):
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        chosen = torch.log_softmax(logits, -1).gather(-1, inputs["input_ids"][:, 1:, None]).squeeze(-1)
        return (chosen * inputs["completion_mask"][:, 1:]).sum(1)

    with torch.no_grad():
        reference = logps(trainer.ref_model)
    policy = logps(trainer.model)
    chosen, rejected = (policy - reference).chunk(2)
    return trainer.beta * (chosen - rejected)


def with_stored_scores(trainer, dataset, *, policy=True):
    """The dataset with the columns that annotation would have stored."""
    inputs = whole_batch(trainer)
    reference = trainer.compute_ref_log_probs(trainer.ref_model, inputs)
    own = trainer.compute_ref_log_probs(trainer.model, inputs)
    for column, values in zip(("ref_chosen_logps", "ref_rejected_logps"), reference, strict=True):
        dataset = dataset.add_column(column, values.tolist())
    if policy:
        for column, values in zip(("chosen_logps", "rejected_logps"), own, strict=True):
            dataset = dataset.add_column(column, values.tolist())
    return dataset
