"""Networks that estimate a target. A module holds a network and its config with all defaults.

To add a separator, write a module with a ``Separator`` and its config, and add the config to
``AnySeparator``.

Example:
    >>> from singleout.separators import ConditionedUNetConfig
    >>> separator = ConditionedUNetConfig().build(embedding_dim=96)
    >>> separator.sample_rate
    32000
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from singleout.separators.band_split import BandSplit, BandSplitConfig
from singleout.separators.conditioned_unet import ConditionedUNet, ConditionedUNetConfig
from singleout.separators.identity import Identity, IdentityConfig
from singleout.separators.locoformer import Locoformer, LocoformerConfig
from singleout.separators.resunet30 import ResUNet30, ResUNet30Config
from singleout.separators.separator import Separator

__all__ = [
    "AnySeparator",
    "BandSplit",
    "BandSplitConfig",
    "ConditionedUNet",
    "ConditionedUNetConfig",
    "Identity",
    "IdentityConfig",
    "Locoformer",
    "LocoformerConfig",
    "ResUNet30",
    "ResUNet30Config",
    "Separator",
]

AnySeparator = Annotated[
    ConditionedUNetConfig | BandSplitConfig | LocoformerConfig | ResUNet30Config | IdentityConfig,
    Field(discriminator="type"),
]
