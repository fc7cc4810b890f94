"""Extraction from recordings of any length, rate, number of channels and kind of file."""

from singleout.extract.extraction import Extraction
from singleout.extract.extractor import Extractor

__all__ = ["Extraction", "Extractor"]
