"""Preference datasets: sources and layouts, seed selection, self-annotation."""
