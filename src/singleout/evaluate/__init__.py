"""Scores of models: on mixtures of a manifest, in scenarios of every kind, and on benchmarks.

- ``evaluate`` scores a model with text and with audio queries; ``summary`` makes the table.
- ``evaluate_scenarios`` adds absent sounds and negative prompts; ``scenario_summary`` makes the
  table, and ``calibration_of`` fits presence and gate to such mixtures.
- ``run_benchmark`` scores a model on a benchmark (``load_benchmark``); ``benchmark_summary`` makes
  the table.
- ``score`` has the metrics, ``REFERENCES`` the reference systems, ``bootstrap_interval`` the
  confidence intervals, and ``modality_gap`` measures an encoder.

Importing this package does not import torch, which comes with the first use of a name.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from singleout.audio import write_wav
    >>> from singleout.data.clips import Clip
    >>> from singleout.encoders import load_encoder
    >>> from singleout.evaluate import EvaluationConfig, evaluate, summary
    >>> from singleout.model import ModelConfig, QueriedSeparator
    >>> from singleout.separators import IdentityConfig
    >>> config = ModelConfig(separator=IdentityConfig())
    >>> model = QueriedSeparator(config, load_encoder("builtin"))  # gives the mixture
    >>> time = np.arange(8_000, dtype=np.float32) / 8_000  # one second
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clips = []
    ...     for name, hz in (("low", 200), ("high", 2_000)):
    ...         path = Path(folder) / f"{name}.wav"
    ...         write_wav(path, 0.1 * np.sin(2 * np.pi * hz * time)[None], 8_000)
    ...         clips.append(Clip(path, 1.0, f"a {name} tone", (), name, name, "test"))
    ...     rows = evaluate(model, clips, EvaluationConfig(num_mixtures=2))
    >>> systems = summary(rows)["systems"]
    >>> list(systems)
    ['text', 'audio', 'zeros', 'mixture', 'half_mixture', 'oracle_mask']
    >>> systems["text"]["sdri_db"]["mean"]
    {'estimate': 0.0, 'low': 0.0, 'high': 0.0}
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from singleout.evaluate.benchmarks import BENCHMARKS, load_benchmark

if TYPE_CHECKING:
    from singleout.evaluate.benchmarks.run import Extras, benchmark_summary, run_benchmark
    from singleout.evaluate.evaluation import EvaluationConfig, evaluate, summary
    from singleout.evaluate.gap.measure import GapReport, embed_pairs, modality_gap
    from singleout.evaluate.metrics import Scores, score
    from singleout.evaluate.references import REFERENCES
    from singleout.evaluate.scenarios import calibration_of, evaluate_scenarios, scenario_summary
    from singleout.evaluate.statistics import Interval, Summary, bootstrap_interval, summarise

__all__ = [
    "BENCHMARKS",
    "REFERENCES",
    "EvaluationConfig",
    "Extras",
    "GapReport",
    "Interval",
    "Scores",
    "Summary",
    "benchmark_summary",
    "bootstrap_interval",
    "calibration_of",
    "embed_pairs",
    "evaluate",
    "evaluate_scenarios",
    "load_benchmark",
    "modality_gap",
    "run_benchmark",
    "scenario_summary",
    "score",
    "summarise",
    "summary",
]

_LAZY = {
    "REFERENCES": "references",
    "EvaluationConfig": "evaluation",
    "Extras": "benchmarks.run",
    "GapReport": "gap.measure",
    "Interval": "statistics",
    "Scores": "metrics",
    "Summary": "statistics",
    "benchmark_summary": "benchmarks.run",
    "bootstrap_interval": "statistics",
    "calibration_of": "scenarios",
    "embed_pairs": "gap.measure",
    "evaluate": "evaluation",
    "evaluate_scenarios": "scenarios",
    "modality_gap": "gap.measure",
    "run_benchmark": "benchmarks.run",
    "scenario_summary": "scenarios",
    "score": "metrics",
    "summarise": "statistics",
    "summary": "evaluation",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
