"""Parameters and operations of every separator. Writes ``results/separator_size.json``.

Command: ``python -m benchmarks.separator_size`` (one minute).

The operations are those of one query on one channel. The separators have their default sizes and an
embedding as long as that of the built-in encoder. Negative prompts would double that length.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from recipes.builtin.experiment import size
from singleout.separators import (
    BandSplitConfig,
    ConditionedUNetConfig,
    LocoformerConfig,
    ResUNet30Config,
)

EMBEDDING_DIM = 96
SECONDS = 10
SEPARATORS = (BandSplitConfig(), ConditionedUNetConfig(), LocoformerConfig(), ResUNet30Config())


def main() -> None:
    """Count, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("results/separator_size.json"))
    args = parser.parse_args()
    result = {
        "meta": {
            "command": "python -m benchmarks.separator_size",
            "torch": torch.__version__,
            "embedding_dim": EMBEDDING_DIM,
            "seconds": SECONDS,
        },
        "separators": {
            config.type: size(config.build(EMBEDDING_DIM), EMBEDDING_DIM, SECONDS)
            for config in SEPARATORS
        },
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
