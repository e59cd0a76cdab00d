"""Worlds: where requests come from, what a good answer is, and an annotator who knows it. NumPy only."""
