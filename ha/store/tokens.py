"""See :mod:`ha.core.tokens`."""

from __future__ import annotations

from ha.core.tokens import Token, fold_case, quote, shape, tokenize

__all__ = ["Token", "fold_case", "quote", "shape", "tokenize"]
