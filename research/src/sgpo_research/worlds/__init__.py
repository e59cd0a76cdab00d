"""Worlds with a known reward as arrays, and annotators with noise."""
