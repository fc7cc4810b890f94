"""Extraction from recordings of any rate, length and number of channels."""

from singleout.extract.extractor import Extractor

__all__ = ["Extractor"]
