"""The queried separator, and what is made of the similarity between its targets and the query."""

from singleout.model.separator import (
    PACKAGED,
    EncoderReference,
    ModelConfig,
    PresenceCalibration,
    QueriedSeparator,
    read_config,
)

__all__ = [
    "PACKAGED",
    "EncoderReference",
    "ModelConfig",
    "PresenceCalibration",
    "QueriedSeparator",
    "read_config",
]
