"""Shards and their sidecars, each of which appears whole or not at all.

A sidecar states what is in a shard, so that nothing has to read the shard to know it. It is
written before the shard appears. So a shard that exists has its sidecar.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from singleout.documents import DocumentError, parse_json
from singleout.errors import InputError, OutputError
from singleout.shards.tars import TarWriter
from singleout.storage.atomic import replacing
from singleout.storage.locations import Location
from singleout.storage.temporary import temporary_folder

FORMAT = 1
"""Version of sidecars and of prepared corpora."""


@dataclass(frozen=True)
class Sample:
    """A sound with what is known about it.

    Attributes:
        key: its name in the shard. The members of the sample are the key with a suffix.
        audio: content of its audio file.
        suffix: of the audio file.
        sample_rate: Hz.
        num_samples: length, in samples per channel.
        description: a JSON object with the keys of a manifest but ``path`` (``seconds``,
            ``caption``, ``alternatives``, ``class``, ``group``, ``split``) and any other keys.
        embeddings: float16 [crops, dim], one for each crop; None without.

    Example:
        >>> Sample("000000007", b"fLaC", "flac", 32_000, 64_000, {"seconds": 2.0}).key
        '000000007'
    """

    key: str
    audio: bytes
    suffix: Literal["flac", "wav"]
    sample_rate: int
    num_samples: int
    description: Mapping[str, Any]
    embeddings: NDArray[np.float16] | None = None


class ShardWriter:
    """Writes a shard and its sidecars; a context manager.

    ``NAME.tar`` is the shard. ``NAME.json`` is its sidecar, and ``NAME.npy`` has the embeddings of
    all its crops, if its samples have embeddings. All appear at the end of the context, the shard
    last, and only if no exception ends the context.

    Args:
        folder: of the shards.
        name: of the shard, without suffix.

    Raises:
        OutputError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shards = Location(folder) / "shards"
        ...     with ShardWriter(shards, "0123") as shard:
        ...         rain = {"caption": "rain", "seconds": 2.0}
        ...         shard.add(Sample("000000007", b"fLaC", "flac", 32_000, 64_000, rain))
        ...         shard.report({"row": 8, "reason": "is silent"})
        ...     is_finished(shards, "0123"), shards.names()
        (True, ['0123.json', '0123.tar'])
    """

    def __init__(self, folder: Location, name: str) -> None:
        self._folder, self._name = folder, name
        self._rows: list[dict[str, Any]] = []
        self._report: list[dict[str, Any]] = []
        self._embeddings: list[NDArray[np.float16]] = []
        self._files = ExitStack()

    def __enter__(self) -> ShardWriter:
        place = self._folder / f"{self._name}.tar"
        with ExitStack() as files:
            if place.is_local:
                self._make_folder()
                self._path = files.enter_context(replacing(place.path))
            else:
                self._path = files.enter_context(temporary_folder()) / "shard.tar"
            self._file = files.enter_context(self._path.open("wb"))
            self._files = files.pop_all()
        self._tar = TarWriter(self._file)
        return self

    def _make_folder(self) -> None:
        try:
            self._folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be made: {error.strerror}") from None

    def add(self, sample: Sample) -> None:
        """Write a sample. Keys must ascend."""
        if self._rows and sample.key <= self._rows[-1]["key"]:
            raise ValueError(f"{sample.key} follows {self._rows[-1]['key']}")
        members = {
            sample.suffix: sample.audio,
            "json": json_bytes(dict(sample.description)),
        }
        if sample.embeddings is not None:
            embeddings = np.ascontiguousarray(sample.embeddings, np.float16)
            self._embeddings.append(embeddings)
            members["npy"] = _npy(embeddings)
        places = {
            suffix: [self._tar.add(f"{sample.key}.{suffix}", content), len(content)]
            for suffix, content in sorted(members.items())
        }
        self._rows.append(
            {
                "key": sample.key,
                "audio": sample.suffix,
                "members": places,
                "sample_rate": sample.sample_rate,
                "num_samples": sample.num_samples,
                "crops": 0 if sample.embeddings is None else len(sample.embeddings),
                "description": dict(sample.description),
            }
        )

    def report(self, row: dict[str, Any]) -> None:
        """Note, in the sidecar, what became of an input."""
        self._report.append(row)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._files.__exit__(kind, error, traceback)
            return
        with self._files:
            digest = self._tar.finish()
            self._file.close()
            content = {
                "format": FORMAT,
                "size": self._tar.size,
                "sha256": digest,
                "embeddings": None,
                "rows": self._rows,
                "report": self._report,
            }
            if self._embeddings:
                rows = _npy(np.concatenate(self._embeddings))
                (self._folder / f"{self._name}.npy").write(rows)
                content["embeddings"] = _sha256(rows)
            content["checksum"] = _sha256(json_bytes(content))
            (self._folder / f"{self._name}.json").write(json_bytes(content))
            place = self._folder / f"{self._name}.tar"
            if not place.is_local:
                place.put(self._path)


def is_finished(folder: Location, name: str) -> bool:
    """Whether a shard exists, as long as its sidecar says, and its sidecars are undamaged.

    Args:
        folder: of the shards.
        name: of the shard, without suffix.

    Example:
        >>> is_finished(Location("missing"), "0123")
        False
    """
    shard, sidecar = folder / f"{name}.tar", folder / f"{name}.json"
    if not (shard.exists() and sidecar.exists()):
        return False
    try:
        return bool(check_sidecars(folder, name)["size"] == shard.size())
    except InputError:  # damaged: the shard is made again
        return False


def check_sidecars(folder: Location, name: str) -> dict[str, Any]:
    """Check the sidecars of a shard by their checksums; what ``read_sidecar`` returns.

    Args:
        folder: of the shards.
        name: of the shard, without suffix.

    Raises:
        InputError: a sidecar is missing or damaged.

    Example:
        >>> check_sidecars(Location("missing"), "0123")
        Traceback (most recent call last):
        singleout.errors.InputError: missing/0123.json: no such file
    """
    content = read_sidecar(folder, name)
    if content["embeddings"] is not None:
        read_npy(folder / f"{name}.npy", content["embeddings"])
    return content


def read_sidecar(folder: Location, name: str) -> dict[str, Any]:
    """What a shard contains.

    Args:
        folder: of the shards.
        name: of the shard, without suffix.

    Returns:
        ``size`` and ``sha256`` of the shard, the SHA-256 of its ``embeddings`` or None, its
        ``rows`` and the rows of its ``report``. A row has the ``key`` of a sample, the suffix of
        its ``audio``, the ``members`` (offset and size by suffix), ``sample_rate``,
        ``num_samples``, the number of embedded ``crops``, and the ``description``.

    Raises:
        InputError: the sidecar is missing or damaged, or it is none.

    Example:
        >>> read_sidecar(Location("missing"), "0123")
        Traceback (most recent call last):
        singleout.errors.InputError: missing/0123.json: no such file
    """
    place = folder / f"{name}.json"
    encoded = place.read()
    try:
        content = parse_json(encoded.decode())
    except (DocumentError, UnicodeDecodeError) as error:
        raise InputError(f"{place}: is damaged: {error}: prepare the corpus again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{place}: is not the sidecar of a shard, or of another version: prepare the corpus "
            "again"
        )
    checksum = content.pop("checksum", None)
    if json_bytes({**content, "checksum": checksum}) != encoded or checksum != _sha256(
        json_bytes(content)
    ):
        raise InputError(f"{place}: is damaged: its checksum is wrong: prepare the corpus again")
    return content


def json_bytes(value: object) -> bytes:
    """JSON with the same bytes for the same value, whatever the order of its keys.

    Example:
        >>> json_bytes({"b": 1, "a": [2.0]})
        b'{"a":[2.0],"b":1}'
    """
    # Names of files may have broken characters: escapes keep them.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _npy(array: NDArray[Any]) -> bytes:
    """The content of a NumPy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_npy(place: Location, sha256: str) -> NDArray[np.float16]:
    """The embeddings of all crops of a shard, float16 [crops, dim].

    Args:
        place: of the file.
        sha256: of its content, as the sidecar has it.

    Raises:
        InputError: the file is missing or damaged.

    Example:
        >>> read_npy(Location("missing.npy"), "0" * 64)
        Traceback (most recent call last):
        singleout.errors.InputError: missing.npy: no such file
    """
    content = place.read()
    if _sha256(content) != sha256:
        raise InputError(f"{place}: is damaged: its checksum is wrong: prepare the corpus again")
    array: NDArray[np.float16] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
