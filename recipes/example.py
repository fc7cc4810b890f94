"""The mixture of ``make demo``: two freely licensed sounds of held-out packages.

A cow (pekka-kana-2-data, BSD-2-Clause) moos twice over running water (gcompris-qt-data,
CC-BY-3.0); no part of the built-in model was trained on either package.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile

RATE = 32_000
SECONDS = 8.0


def main() -> None:
    """Write ``examples/mixture.wav`` and ``examples/query.txt``."""
    home = Path(os.environ.get("SINGLEOUT_SOUNDS", "~/.cache/singleout/sounds")).expanduser()
    cow, _ = soundfile.read(next(home.glob("audio/pekka-kana-2-data/moo-*.wav")))
    water, _ = soundfile.read(next(home.glob("audio/gcompris-qt-data/water-fill-*.wav")))
    mixture = np.resize(water, round(SECONDS * RATE)) * 0.25
    for onset_seconds in (1.5, 5.5):
        start = round(onset_seconds * RATE)
        mixture[start : start + len(cow)] += 0.3 * cow
    folder = Path("examples")
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "mixture.wav", mixture, RATE, "PCM_16")
    (folder / "query.txt").write_text("a cow mooing\n")


if __name__ == "__main__":
    main()
