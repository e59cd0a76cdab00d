"""Figures of the study: summary rows in, a matplotlib Figure out; nothing here reads or writes files."""
