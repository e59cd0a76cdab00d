"""Robust, data-efficient preference alignment of language models (SGPO, arXiv:2502.18099)."""

__version__ = "0.1.0"
