"""Print the SHA-256 of the target of ``examples/mixture.wav``, extracted with one thread.

    python -m benchmarks.target_hash [--model MODEL]

Equal hashes of two revisions mean that they give the same target to the bit. Compare them on one
machine: processors round differently.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from singleout import Extractor

EXAMPLES = Path(__file__).parents[1] / "examples"


def target_hash(model: str | None = None) -> str:
    """The hash of the target's float32 samples.

    Args:
        model: as ``Extractor.from_pretrained`` takes it; the packaged model by default.
    """
    extractor = Extractor.from_pretrained(model)
    query = (EXAMPLES / "query.txt").read_text(encoding="utf-8").strip()
    target = extractor.extract(EXAMPLES / "mixture.wav", query).target
    return hashlib.sha256(target.tobytes()).hexdigest()


def main() -> None:
    """Extract with one thread and print the hash."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="the packaged model by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(target_hash(arguments.model))


if __name__ == "__main__":
    main()
