"""What log-probabilities depend on beside the weights: how text becomes tokens."""

import hashlib

from transformers import PreTrainedTokenizerBase


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names a tokenizer by its vocabulary, merges and rules: 16 hexadecimal digits of SHA-256."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return _digest(content)


def fingerprint_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names a chat template by its text: 16 hexadecimal digits of SHA-256."""
    return _digest(str(tokenizer.chat_template))


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
