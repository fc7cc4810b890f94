"""Single out a sound by describing it.

``from singleout import Extractor, Query`` loads neither torch nor weights: both come with the
first use of ``Extractor``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from singleout.types import Example, Query

if TYPE_CHECKING:
    from singleout.extract import Extraction, Extractor

__version__ = version("singleout")
__all__ = ["Example", "Extraction", "Extractor", "Query"]


def __getattr__(name: str) -> Any:
    if name in ("Extraction", "Extractor"):
        from singleout import extract

        return getattr(extract, name)
    raise AttributeError(f"module 'singleout' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Extraction", "Extractor"])
