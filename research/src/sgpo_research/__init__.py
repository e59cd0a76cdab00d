"""Worlds with a known gold reward, small models trained in them, and what is measured there."""
