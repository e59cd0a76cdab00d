"""Conversations that exercise tokenizers: several turns, blank lines, other scripts, long and short."""


def ask(*contents):
    """Prompts of one user turn each."""
    return [[{"role": "user", "content": content}] for content in contents]


PROMPTS = [
    *ask("Tell me about the bridge.", "Why?", "What is the colour of the sky at night, and why is it not blue?"),
    [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "Who built it?"},
        {"role": "assistant", "content": "A mason."},
        {"role": "user", "content": "When?"},
    ],
    *ask("Größe 🌉 — 你好", "x" * 60),
]
RESPONSES = [
    "The old bridge crosses a quiet river.",
    "  Because of\n\nthe light. ",
    "\nIt is dark.",
    "In 1312, or so they say; nobody knows.",
    "🌉",
    "y",
]
