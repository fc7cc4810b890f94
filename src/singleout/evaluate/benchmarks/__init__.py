"""The field's benchmarks: what each one's files look like, and how its scores are aggregated.

A `Protocol` reads a folder into `Item`s and says how their scores become one number.
`singleout.evaluate.benchmarks.run` runs it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from singleout.evaluate.benchmarks.audiosep import AUDIOSEP
from singleout.evaluate.benchmarks.dcase import DCASE
from singleout.evaluate.benchmarks.mixing import MixingConfig, mixing
from singleout.evaluate.benchmarks.protocol import Item, Protocol, Signals

__all__ = ["PROTOCOLS", "Item", "MixingConfig", "Protocol", "Signals", "mixing"]

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {protocol.name: protocol for protocol in (*AUDIOSEP, *DCASE)}
)
"""The published sets by name; `mixing` makes the protocol of any manifest."""
