"""Pipes and file objects as recordings."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from singleout.audio import media_name, open_media
from singleout.errors import AudioError, Cancelled
from tests.cli.commands import posix
from tests.recordings import noise, write_recording

AUDIO = noise(9_000, 2)


@pytest.fixture(autouse=True)
def _no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []


def wav(audio: np.ndarray = AUDIO) -> bytes:
    """A float WAV."""
    soundfile.write(file := io.BytesIO(), audio.T, 8_000, "FLOAT", format="WAV")
    return file.getvalue()


def samples(source: Any, **options: Any) -> np.ndarray:
    """All samples, read twice, and the name of the reader."""
    with open_media(source, **options) as reader:
        assert reader.name == media_name(source)
        with reader.reopened() as again:
            first = np.concatenate(list(again.blocks()), axis=1)
        second = np.concatenate(list(reader.blocks()), axis=1)
    np.testing.assert_array_equal(first, second)
    return second


class Socket(io.RawIOBase):
    """Gives a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[:999])


def test_file_objects_of_all_kinds(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x.wav", AUDIO, 8_000, "FLOAT")
    (tmp_path / "x.wav.gz").write_bytes(gzip.compress(wav()))
    with path.open("rb") as file, gzip.open(tmp_path / "x.wav.gz") as zipped:
        for source in (path, str(path), file, zipped, io.BytesIO(wav()), Socket(wav())):
            np.testing.assert_array_equal(samples(source), AUDIO)


@posix
def test_a_pipe_is_read_to_its_end() -> None:
    read, write = os.pipe()
    content = wav(noise(200_000))
    assert len(content) > 1 << 17  # more than a pipe holds

    def send() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(content)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(read, "rb") as file:
        np.testing.assert_array_equal(samples(file), noise(200_000))
    sender.join()


@posix
def test_a_named_pipe_is_read_once_and_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    sender = threading.Thread(target=path.write_bytes, args=(wav(),))
    sender.start()
    np.testing.assert_array_equal(samples(path), AUDIO)
    sender.join()
    sender = threading.Thread(target=path.write_bytes, args=(b"no sound",))
    sender.start()
    with pytest.raises(AudioError, match=f"^{path}: cannot be read as audio"):
        samples(path)
    sender.join()


@posix
def test_waiting_for_a_pipe_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    read, write = os.pipe()
    cancel = threading.Event()
    cancel.set()
    with os.fdopen(read, "rb") as file, os.fdopen(write, "wb"):
        for source, name in ((tmp_path / "pipe.wav", str(tmp_path / "pipe.wav")), (file, "audio")):
            with pytest.raises(Cancelled, match=f"^{name}: cancelled$"):
                samples(source, cancel=cancel)


def test_sources_that_give_no_bytes() -> None:
    broken = io.BytesIO(gzip.compress(wav())[:-2_000])
    closed = io.BytesIO(wav())
    closed.close()
    for source, reason in (
        (io.BytesIO(), "is empty"),
        (io.StringIO("no sound"), "gives text: open it with 'rb'"),
        (gzip.GzipFile(fileobj=broken), "cannot be read: Compressed file ended before"),
        (closed, "cannot be read: I/O operation on closed file"),
        (io.BytesIO(b"no sound"), "cannot be read as audio"),
    ):
        with pytest.raises(AudioError, match=rf"^audio: .*{reason}"):
            samples(source)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
def test_a_full_temporary_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r") -> Any:
        return opened(Path("/dev/full") if mode == "wb" else path, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(AudioError) as raised:
        samples(io.BytesIO(wav()))
    assert str(raised.value) == (
        f"audio: cannot be copied to the temporary folder {tmp_path / 'temporary'}: "
        "No space left on device: set TMPDIR to another folder"
    )


@pytest.mark.parametrize("address", ["https://example.org/a.wav", "s3://bucket/a.wav"])
def test_an_address_is_refused_with_the_way_out(address: str) -> None:
    for source in (address, Path(address)):
        with pytest.raises(AudioError, match=f"^{address}: is an address: fetch it first"):
            samples(source)
