"""Extraction: from recordings and queries to targets and residuals."""

from singleout.extract.extraction import Extraction
from singleout.extract.extractor import Extractor
from singleout.extract.options import ExtractOptions

__all__ = ["ExtractOptions", "Extraction", "Extractor"]
