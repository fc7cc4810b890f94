"""DCASE 2024 challenge, task 9: language-queried audio source separation, at 16 kHz.

**Validation** (zenodo.org/records/10886481): ``lass_synthetic_validation.csv`` and 1,000 clips of
10 s in ``lass_validation/``. Each row names two clips without ``.wav``, an SNR and a caption. The
3,000 mixtures are not published; the scoring program makes them. Mixing and scoring are those of
the baseline's public program (Audio-AGI/dcase2024_task9_baseline). The noise is scaled to the SNR
by mean power. Mixture and target are scaled to a peak of 0.9 if the mixture exceeds full scale.

**Evaluation** (zenodo.org/records/11425256): mixtures and queries only. The targets of the
synthetic part (3,000 rows) are not published, and the real part (100 clips) has none. So only
CLAPScore can be computed here. Neither part has a published CLAPScore.

The column names could not be verified, because the files could not be downloaded. The baseline
reads columns by position. Other public programs call them ``source,noise,snr`` and, in the
evaluation tables, ``wav,query``. The caption may be called ``caption`` or ``query`` in all of
them. The number of rows of the real part is not published, so it is not checked.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from singleout.errors import InputError
from singleout.evaluate.benchmarks.aggregation import MEAN
from singleout.evaluate.benchmarks.benchmark import (
    Benchmark,
    Item,
    Signals,
    load_rendered,
    mix,
    read_mono,
)
from singleout.evaluate.benchmarks.tables import Row, Table

SAMPLE_RATE = 16_000


def _validation(origin: str, row: Row, audio: Path) -> Item:
    files = audio / f"{row['source']}.wav", audio / f"{row['noise']}.wav"
    try:
        snr_db = float(row["snr"])
    except ValueError:
        snr_db = math.nan
    if not math.isfinite(snr_db):
        raise ValueError(f"snr is not a number of dB: '{row['snr']}'")
    return Item(
        origin=origin,
        caption=_caption(row),
        label="",
        target=row["source"],
        interference=(row["noise"],),
        files=files,
        load=partial(_load_mixed, origin, *files, snr_db),
    )


def _load_mixed(origin: str, target: Path, noise: Path, snr_db: float, sample_rate: int) -> Signals:
    try:
        return mix(read_mono(target, sample_rate), read_mono(noise, sample_rate), snr_db)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def _evaluation(origin: str, row: Row, audio: Path) -> Item:
    name = row["wav"] if row["wav"].endswith(".wav") else f"{row['wav']}.wav"
    mixture = audio / name
    return Item(
        origin=origin,
        caption=_caption(row),
        label="",
        target=name,
        interference=(),
        files=(mixture,),
        load=partial(load_rendered, mixture, None),
    )


def _caption(row: Row) -> str:
    return row["caption"] if "caption" in row else row["query"]


_SETS = (
    Benchmark(
        name="dcase2024-validation",
        sample_rate=SAMPLE_RATE,
        num_items=3_000,
        aggregation=MEAN,
        read=Table(
            "lass_synthetic_validation.csv",
            ("source", "noise", "snr", "caption|query"),
            (),
            ("lass_validation",),
            _validation,
        ),
        published={"DCASE baseline": {"sdr_db": 5.708, "sdri_db": 5.673, "si_sdr_db": 3.862}},
    ),
    Benchmark(
        name="dcase2024-evaluation",
        sample_rate=SAMPLE_RATE,
        num_items=3_000,
        aggregation=MEAN,
        read=Table(
            "lass_synthetic_evaluation.csv",
            ("wav", "caption|query"),
            (),
            ("lass_evaluation_synth",),
            _evaluation,
        ),
    ),
    Benchmark(
        name="dcase2024-evaluation-real",
        sample_rate=SAMPLE_RATE,
        num_items=None,
        aggregation=MEAN,
        read=Table(
            "lass_real_evaluation.csv",
            ("wav", "caption|query"),
            (),
            ("lass_evaluation_real",),
            _evaluation,
        ),
    ),
)


def load(name: str) -> Benchmark:
    """The set of that name; see ``load_benchmark``.

    Example:
        >>> load("dcase2024-validation").num_items
        3000
    """
    return {benchmark.name: benchmark for benchmark in _SETS}[name]
