"""The six evaluation sets of AudioSep (Liu et al., "Separate anything you describe", 2023).

Layouts and aggregations are those of its public repository (Audio-AGI/AudioSep, its folder
``evaluation`` and the tables in it). The mixtures are published as files. All files are resampled
to 32 kHz, and their channels averaged. The query is the caption or class name without any prompt
around it. The published scores are SDRi and SI-SDR, not SI-SDRi.

Where the tables mislead: AudioSet's ``noise_wav`` names the *mixture*. The paths of AudioSet start
above its folder. Clotho has two interferences, and ``noise_wav1`` twice in its header.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from singleout.evaluate.benchmarks.aggregation import (
    MEAN,
    MEAN_OF_CLASS_MEANS,
    MEAN_OF_CLASS_MEDIANS,
    Aggregation,
)
from singleout.evaluate.benchmarks.benchmark import Benchmark, Item, file_names, load_rendered
from singleout.evaluate.benchmarks.tables import ItemReader, Row, Table

SAMPLE_RATE = 32_000


def _rendered(
    origin: str, row: Row, files: tuple[Path, Path], sources: Sequence[str], label: str = ""
) -> Item:
    """``files`` are the mixture and the target, ``sources`` the recordings in the mixture."""
    target, *interference = file_names(sources)
    return Item(
        origin=origin,
        caption=row["caption"],
        label=label,
        target=target,
        interference=tuple(interference),
        files=files,
        load=partial(load_rendered, *files),
    )


def _by_number(
    origin: str,
    row: Row,
    audio: Path,
    noise: Sequence[str] = ("noise_wav",),
    has_classes: bool = False,
) -> Item:
    """Files ``mixture-{idx}.wav`` and ``segment-{idx}.wav``; with classes, the query is a class."""
    number = _whole_number(row, "idx")
    files = audio / f"mixture-{number}.wav", audio / f"segment-{number}.wav"
    sources = [row[column] for column in ("src_wav", *noise)]
    return _rendered(origin, row, files, sources, row["caption"] if has_classes else "")


def _audioset(origin: str, row: Row, audio: Path) -> Item:
    """Files ``class_id=7/class_id=7,index=003,{source,mixture}.wav``; ``idx`` is the class.

    AudioSep's program lists the folders and takes the first ten pairs of each. These are the rows
    of the table.
    """
    label = _whole_number(row, "idx")
    target, mixture = (
        audio.joinpath(*row[column].split("/")[-2:]) for column in ("src_wav", "noise_wav")
    )
    if {target.parent.name, mixture.parent.name} != {f"class_id={label}"}:
        raise ValueError(f"{row['src_wav']} is not in the folder of class {label}")
    return _rendered(origin, row, (mixture, target), [row["src_wav"]], str(label))


def _vggsound(origin: str, row: Row, audio: Path) -> Item:
    """The target is s0. The paths of the table start in the folder of the set, with ``data/``."""
    files = audio / row["mix_wav"], audio / row["s0_wav"]
    query = {"caption": row["s0_text"]}
    # The files of both sources have the name of the mixture: the two recordings, joined by +++.
    return _rendered(origin, query, files, row["file_id"].split("+++"))


def _whole_number(row: Row, column: str) -> int:
    if not row[column].isdecimal():
        raise ValueError(f"{column} is not a whole number: '{row[column]}'")
    return int(row[column])


def _benchmark(
    name: str,
    num_items: int,
    published: tuple[float, float],
    item: ItemReader,
    columns: str = "idx,caption,src_wav,noise_wav",
    key: str = "idx",
    aggregation: Aggregation = MEAN,
    lists_labels: bool = False,
) -> Benchmark:
    """``published`` are AudioSep's SDRi and SI-SDR."""
    return Benchmark(
        name=name,
        sample_rate=SAMPLE_RATE,
        num_items=num_items,
        aggregation=aggregation,
        read=Table(f"{name}_eval.csv", columns.split(","), (key,), (f"data/{name}",), item),
        published={"AudioSep": dict(zip(("sdri_db", "si_sdr_db"), published, strict=True))},
        lists_labels=lists_labels,
    )


_SETS = (
    _benchmark(
        "audioset",
        5_270,
        (7.739, 6.903),
        _audioset,
        key="src_wav",
        aggregation=MEAN_OF_CLASS_MEDIANS,
    ),
    _benchmark(
        "audiocaps",
        4_820,
        (8.220, 7.189),
        _by_number,
        columns="idx,caption,labels,src_wav,noise_wav",
    ),
    _benchmark(
        "clotho",
        5_225,
        (6.850, 5.242),
        partial(_by_number, noise=("noise_wav1", "noise_wav1.2")),
        columns="idx,caption,src_wav,noise_wav1,noise_wav1.2",
    ),
    _benchmark("esc50", 2_000, (10.040, 8.810), _by_number),
    _benchmark(
        "music",
        5_004,
        (10.508, 9.425),
        partial(_by_number, has_classes=True),
        aggregation=MEAN_OF_CLASS_MEANS,
        lists_labels=True,
    ),
    _benchmark(
        "vggsound",
        1_000,
        (9.144, 9.043),
        _vggsound,
        columns="file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text",
        key="file_id",
    ),
)


def load(name: str) -> Benchmark:
    """The set of that name; see ``load_benchmark``.

    Example:
        >>> load("music").aggregation.name
        'mean over classes of the mean over items'
    """
    return {benchmark.name: benchmark for benchmark in _SETS}[name]
