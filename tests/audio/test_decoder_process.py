"""The process of a decoder: files that reach it, failures, and its end."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from singleout.audio import open_audio, read_audio
from singleout.audio.ffmpeg import decoder as ffmpeg_decoder
from singleout.audio.ffmpeg.decoder import Decoder
from singleout.errors import AudioError
from tests.audio.media import NUM_FRAMES, RATE, assert_refused, encode, to_floats


def test_samples_pass_the_pipe_exactly(media: Path, integers: NDArray[np.int16]) -> None:
    waveform, rate = read_audio(media / "pcm.mkv")
    assert rate == RATE
    np.testing.assert_array_equal(waveform, to_floats(integers))


@pytest.mark.parametrize("name", ["concat:a|two\nlines 😀 %03d.m4a", os.fsdecode(b"caf\xe9.m4a")])
def test_files_of_any_name_are_read(media: Path, tmp_path: Path, name: str) -> None:
    """No name is taken for a protocol or pattern of FFmpeg, and names need not be valid text."""
    path = tmp_path / name
    path.write_bytes((media / "aac.m4a").read_bytes())
    assert read_audio(path)[0].shape == (2, NUM_FRAMES)


def test_relative_paths_are_read(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the current folder are not imported as modules."""
    for name in ("json.py", "av.py", "singleout.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit('not this one')\n")
    (tmp_path / "x.m4a").write_bytes((media / "aac.m4a").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert read_audio("x.m4a")[1] == RATE


def test_channels_in_an_order_of_their_own_are_sorted(
    tmp_path: Path, integers: NDArray[np.int16]
) -> None:
    """The right channel is the first one in the file. PyAV frees such a layout twice."""
    path = encode(tmp_path / "x.mov", "pcm_s16le", integers)
    data = bytearray(path.read_bytes())
    start = data.index(b"chan") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    labels = b"".join(struct.pack(">II12x", label, 0) for label in (2, 1))
    box = struct.pack(">I4sIIII", 64, b"chan", 0, 0, 0, 2) + labels
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"sowt"):
        place = data.rindex(name) - 4
        grown = int.from_bytes(data[place : place + 4], "big") + len(box) - size
        data[place : place + 4] = grown.to_bytes(4, "big")
    data[start : start + size] = box
    path.write_bytes(data)
    with open_audio(path) as reader:
        assert reader.info.channel_mask == 3
        waveform = np.concatenate(list(reader.blocks()), axis=1)
    np.testing.assert_array_equal(waveform, to_floats(integers)[::-1])


# A decoder that fails


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """A file that libsndfile does not read, so that a decoder starts."""
    path = tmp_path / "x.m4a"
    path.write_bytes(bytes(1_000))
    return path


HEAD = """
import json, os, signal, struct, sys
out = sys.stdout.buffer
def line(**fields):
    out.write(json.dumps(fields).encode() + b"\\n")
def head():
    line(sample_rate=48000, channels=2)
def block(frames, content=b""):
    out.write(struct.pack("<I", frames) + content)
"""

KILL = "out.flush(); os.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "head()",
        "head(); out.write(b'1')",
        "head(); block(1_000)",
        "head(); block(1_000, bytes(7_999))",
        "head(); block(1_000, bytes(8_000))",
        "head()\nfor _ in range(4): block(100_000, bytes(800_000))",
        "head(); block(1_000, bytes(8_000)); block(0)",
    ],
)
def test_a_decoder_that_dies_is_reported(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    """Before its first line, after it, or within the samples: this process lives on."""
    sent += "\n"
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", HEAD + sent + KILL)
    assert_refused(unreadable, "SIGSEGV.*damaged")


def test_samples_of_a_dying_decoder_do_not_end_normally(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are read, then an error is raised."""
    sent = "head(); block(1_000, bytes(8_000))\n"
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", HEAD + sent + KILL)
    with open_audio(unreadable) as reader:
        blocks = reader.blocks()
        assert next(blocks).shape == (2, 1_000)
        with pytest.raises(AudioError, match="SIGSEGV"):
            next(blocks)


BROKEN = {
    "import sys; sys.exit(1)": "its decoder failed: exit code 1",
    "": "its decoder failed: exit code 0",
    "print('garbage')": "its decoder failed",
    "print('5')": "its decoder failed",
    "print('{\"sample_rate\": 1}')": "its decoder failed",
    "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')": "its decoder failed",
    "import sys; sys.stdout.buffer.write(b'no line')": "its decoder failed",
    "1 / 0": "its decoder failed: exit code 1",
    HEAD + "line(error='of a reason')": ": of a reason$",
    HEAD + "sys.stderr.write('x\\n' * 100_000); sys.exit(3)": "exit code 3",
    HEAD + "head(); block(1_000, bytes(8_000)); out.flush(); 1 / 0": "exit code 1",
    HEAD + "head(); block(1_000, bytes(8_000)); block(0); line(error='late')": ": late$",
    HEAD + "head(); block(1_000, bytes(7_999))": "its decoder failed: exit code 0",
    HEAD + "head(); block(1 << 30)": "the block is too long",
    HEAD + "head(); block(0); line(notes=[])": "no samples",
    HEAD + "head(); block(0); line(notes=[1])": "its decoder failed",
    HEAD + "head(); block(0); line()": "its decoder failed",
    HEAD + "head(); block(1_000, b'\\xff' * 8_000)": "NaN",
}


@pytest.mark.parametrize("program", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_decoder_is_reported(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """Any failure becomes a message of one line."""
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", program)
    assert_refused(unreadable, BROKEN[program])


def test_without_pyav_the_message_names_it(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that libsndfile reads do not need PyAV."""
    hidden = "import sys; sys.modules['av'] = None\n" + ffmpeg_decoder.PROGRAM
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", hidden)
    assert_refused(media / "aac.m4a", "pip install av")


# No process stays


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Decoder]]:
    """The decoders that a test starts. None of their processes may outlive the test."""
    decoders: list[Decoder] = []
    init = Decoder.__init__

    def record(self: Decoder, path: Path, sndfile_error: str, track: int | None) -> None:
        decoders.append(self)
        init(self, path, sndfile_error, track)

    monkeypatch.setattr(Decoder, "__init__", record)
    yield decoders
    assert decoders
    for decoder in decoders:
        # ``wait`` gave the return code: the process is not even a zombie.
        assert decoder._process.returncode is not None
        assert not Path(f"/proc/{decoder._process.pid}").exists()
        for pipe in (decoder._process.stdin, decoder._process.stdout):
            assert pipe is not None
            assert pipe.closed


def test_a_reader_that_is_left_early_ends_its_process(media: Path, started: list[Decoder]) -> None:
    """After some blocks, after none, and by an error in the ``with`` block."""
    for num_blocks in (0, 1):
        with open_audio(media / "aac.m4a") as reader:
            blocks = reader.blocks()
            for _ in range(num_blocks):
                next(blocks)
            assert started[-1]._process.returncode is None

    def fail() -> None:
        with open_audio(media / "pcm.mkv") as reader:
            next(reader.blocks())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_a_decoder_that_hangs_is_ended(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch, started: list[Decoder]
) -> None:
    """Closing does not wait for the decoder."""
    hang = "head(); block(9, bytes(72)); out.flush()\nwhile True: signal.pause()"
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", HEAD + hang)
    with open_audio(unreadable) as reader:
        assert next(reader.blocks()).shape[0] == 2


def test_errors_leave_no_process(
    media: Path, unreadable: Path, monkeypatch: pytest.MonkeyPatch, started: list[Decoder]
) -> None:
    assert_refused(media / "silent.mp4", "no sound")
    read_audio(media / "aac.m4a")
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", "print('garbage', flush=True)\nwhile True: pass")
    assert_refused(unreadable, "its decoder failed")


def test_the_process_ends_with_its_parent(media: Path) -> None:
    """A killed parent closes nothing, and the process may not write for a long time."""
    program = (
        "import time; from singleout.audio.ffmpeg import process\n"
        "process.decode = lambda *_: time.sleep(600)\n"
        "print('started', flush=True); process.main()"
    )
    command = [sys.executable, "-c", program, str(media / "aac.m4a"), ""]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_a_killed_parent_leaves_no_decoder(media: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from singleout.audio.ffmpeg.decoder import Decoder\n"
        "decoder = Decoder(Path(sys.argv[1]), '')\n"
        "print(decoder._process.pid, flush=True)\n"
        "sys.stdin.read(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, str(media / "pcm.mkv")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        decoder = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.close()
        assert parent.wait(60) == -signal.SIGKILL
        assert select.select([decoder], [], [], 60)[0]  # it has ended
        os.close(decoder)


def test_the_memory_of_the_process_is_limited(
    unreadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "from singleout.audio.ffmpeg import process\n"
        "process._decode = lambda *_: bytearray(process.MAX_MEMORY_BYTES)\n"
        "process.main()"
    )
    monkeypatch.setattr(ffmpeg_decoder, "PROGRAM", program)
    assert_refused(unreadable, "needs too much memory")
