"""Tokenizers that somebody else made: their failures, and the parts that they may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer

from singleout.errors import ModelError, shortened

PARTS = {
    "normalizer": ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip",
                   "StripAccents"),
    "pre_tokenizer": ("BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace",
                      "WhitespaceSplit"),
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
    "post_processor": ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"),
}  # fmt: skip
"""Types of parts whose result is about as long as the text. BERT and RoBERTa need no others."""


def check_parts(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that could make a text of any length of a query.

    A sequence of a few replacements makes billions of letters of one letter.

    Raises:
        ModelError: names the part.

    Example:
        >>> from tokenizers import models, normalizers
        >>> tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
        >>> check_parts(tokenizer)
        >>> tokenizer.normalizer = normalizers.Replace("a", "aaaaaaaaaa")
        >>> check_parts(tokenizer)
        Traceback (most recent call last):
        singleout.errors.ModelError: not a tokenizer for queries: its normalizer is 'Replace'
    """
    for part, types in PARTS.items():
        kind = type(getattr(tokenizer, part)).__name__
        if kind not in (*types, "NoneType"):
            raise ModelError(f"not a tokenizer for queries: its {part} is '{kind}'")


@contextmanager
def refusing(reason: str) -> Iterator[None]:
    """Turn every failure of a tokenizer into an error of ours.

    Tokenizers raises plain exceptions, and a panic of its Rust code is not even an ``Exception``.

    Args:
        reason: the start of the message.

    Raises:
        ModelError: the code in the context failed.

    Example:
        >>> with refusing("not a tokenizer"):
        ...     Tokenizer.from_str("{}")
        Traceback (most recent call last):
        singleout.errors.ModelError: not a tokenizer: ...
    """
    try:
        yield
    except (ModelError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ModelError(f"{reason}: {shortened(error, 200)}") from None
