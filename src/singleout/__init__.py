"""Single out a sound by describing it.

``import singleout`` loads neither torch nor weights: both come with the first use of a name that
needs them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from singleout.errors import (
    AudioError,
    Cancelled,
    ConfigError,
    InputError,
    ManifestError,
    MissingExtraError,
    ModelError,
    OutputError,
    QueryError,
    ShardError,
    SingleoutError,
    TrainingError,
)
from singleout.types import Example, Query

if TYPE_CHECKING:
    from singleout.extract import Extraction, ExtractOptions, Extractor
    from singleout.model.similarity import Presence
    from singleout.storage.models import list_models

__version__ = version("singleout")
__all__ = [
    "AudioError",
    "Cancelled",
    "ConfigError",
    "Example",
    "ExtractOptions",
    "Extraction",
    "Extractor",
    "InputError",
    "ManifestError",
    "MissingExtraError",
    "ModelError",
    "OutputError",
    "Presence",
    "Query",
    "QueryError",
    "ShardError",
    "SingleoutError",
    "TrainingError",
    "list_models",
]

_LAZY = {
    "ExtractOptions": "singleout.extract",
    "Extraction": "singleout.extract",
    "Extractor": "singleout.extract",
    "Presence": "singleout.model.similarity",
    "list_models": "singleout.storage.models",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'singleout' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
