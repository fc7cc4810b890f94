"""Write the mixture of ``make demo``: two freely licensed sounds of held-out packages.

Command: ``python -m recipes.example``, after ``make sounds``.

A cow (pekka-kana-2-data, BSD-2-Clause) moos while coins jingle (gcompris-qt-data, CC0-1.0). No part
of the built-in model was trained on either package. The pair is one of the few freely licensed test
pairs that the model separates well: it shows the tool, and not its average quality.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 32_000
SECONDS = 8.0


def repeated(path: Path) -> NDArray[np.float64]:
    """The sound repeated at intervals of 0.3 s, at an RMS of 0.1; float64 [samples]."""
    sound, _ = soundfile.read(path)
    endless = np.resize(np.pad(sound, (0, round(0.3 * RATE))), round(SECONDS * RATE))
    scaled: NDArray[np.float64] = 0.1 * endless / np.sqrt(np.square(endless).mean())
    return scaled


def main() -> None:
    """Write ``examples/mixture.wav`` and ``examples/query.txt``."""
    home = Path(os.environ.get("SINGLEOUT_SOUNDS", "~/.cache/singleout/sounds")).expanduser()
    mixture = sum(
        repeated(next(home.glob(f"audio/{pattern}-*.wav")))
        for pattern in ("pekka-kana-2-data/moo", "gcompris-qt-data/money2")
    )
    folder = Path("examples")
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "mixture.wav", mixture, RATE, "PCM_16")
    (folder / "query.txt").write_text("a cow mooing\n")


if __name__ == "__main__":
    main()
