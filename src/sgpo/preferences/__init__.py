"""Preference datasets: sources, layouts, mixtures and splits; seed selection, annotators and self-annotation."""
