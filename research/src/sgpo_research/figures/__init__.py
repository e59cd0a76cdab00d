"""Figures of the study: functions from summary rows to a matplotlib Figure, without files."""
