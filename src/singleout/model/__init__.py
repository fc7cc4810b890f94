"""The queried separator, and what is made of the similarity between its targets and the query."""

from singleout.model.config import EncoderReference, ModelConfig, read_config
from singleout.model.separator import QueriedSeparator
from singleout.model.similarity import PresenceCalibration

__all__ = [
    "EncoderReference",
    "ModelConfig",
    "PresenceCalibration",
    "QueriedSeparator",
    "read_config",
]
