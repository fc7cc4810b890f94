"""The benchmarks of the field: how to read each one, and how its scores are aggregated.

``BENCHMARKS`` lists them by name. A new benchmark is a module here and one entry of that registry;
the command line reads its list from there. A ``Benchmark`` reads a folder into ``Item``s and says
how their scores become one number (``singleout.evaluate.benchmarks.benchmark``).
``singleout.evaluate.benchmarks.run`` scores a model on it.

Importing this package imports no benchmark and no torch.
"""

from singleout.evaluate.benchmarks.registry import BENCHMARKS, Entry, load_benchmark

__all__ = ["BENCHMARKS", "Entry", "load_benchmark"]
