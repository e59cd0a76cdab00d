"""The embedded world: a small SFT model, preference pairs, prompts, and a known reward, as files."""
