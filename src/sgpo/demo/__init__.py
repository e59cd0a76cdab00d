"""The embedded world: a small model, preference pairs, prompts, and a reward that is known."""
