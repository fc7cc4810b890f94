"""The list of all benchmarks; the command line reads it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from singleout.errors import InputError

if TYPE_CHECKING:
    from singleout.evaluate.benchmarks.benchmark import Benchmark


class Entry(NamedTuple):
    """Where a benchmark is defined.

    Attributes:
        module: of ``singleout.evaluate.benchmarks``. Its function ``load`` takes the name of the
            benchmark and gives the ``Benchmark``.
        has_options: whether ``load`` also takes options, as keyword arguments.

    Example:
        >>> BENCHMARKS["esc50"]
        Entry(module='audiosep', has_options=False)
    """

    module: str
    has_options: bool = False


BENCHMARKS: Mapping[str, Entry] = MappingProxyType(
    {
        "audioset": Entry("audiosep"),
        "audiocaps": Entry("audiosep"),
        "clotho": Entry("audiosep"),
        "esc50": Entry("audiosep"),
        "music": Entry("audiosep"),
        "vggsound": Entry("audiosep"),
        "dcase2024-validation": Entry("dcase"),
        "dcase2024-evaluation": Entry("dcase"),
        "dcase2024-evaluation-real": Entry("dcase"),
        "mix": Entry("mixing", has_options=True),
    }
)
"""All benchmarks by name, in the order in which they are listed."""


def load_benchmark(name: str, **options: Any) -> Benchmark:
    """Load a benchmark of the registry.

    Args:
        name: a key of ``BENCHMARKS``.
        options: of benchmarks that have options, such as the fields of ``MixingConfig`` for
            ``mix``.

    Raises:
        InputError: there is no such benchmark, or it has no options.
        ConfigError: an option is unknown or out of range.

    Example:
        >>> load_benchmark("esc50").num_items
        2000
        >>> load_benchmark("mix", snr_db=(0.0,)).sample_rate
        32000
    """
    if name not in BENCHMARKS:
        raise InputError(f"'{name}' is not a benchmark: choose one of {', '.join(BENCHMARKS)}")
    entry = BENCHMARKS[name]
    if options and not entry.has_options:
        configurable = ", ".join(key for key, each in BENCHMARKS.items() if each.has_options)
        raise InputError(
            f"{', '.join(options)}: {name} has no options, only these benchmarks have: "
            f"{configurable}"
        )
    module = import_module(f"{__package__}.{entry.module}")
    benchmark: Benchmark = module.load(name, **options)
    return benchmark
