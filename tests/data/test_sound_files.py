"""Files that crops are read from."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from singleout.data.manifest import scan_folder
from singleout.data.render import read_crop
from singleout.data.sound_files import open_sound
from singleout.errors import AudioError
from tests.data.sounds import RATE, SHORT, noise


@pytest.mark.parametrize("second", [b"", b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4_000)])
@pytest.mark.parametrize("name", ["x.mp3", "x.wav"])
def test_files_that_macos_leaves_do_no_harm(name: str, second: bytes, tmp_path: Path) -> None:
    soundfile.write(tmp_path / name, noise(), RATE)
    (clip,) = scan_folder(tmp_path)
    expected = read_crop(clip, 1, SHORT, RATE)
    (tmp_path / f"._{name}").write_bytes(second)
    assert scan_folder(tmp_path) == [clip]
    assert (read_crop(clip, 1, SHORT, RATE) == expected).all()


def test_the_decoder_of_mp3_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, noise(), RATE)
    path.write_bytes(path.read_bytes()[:3_000])
    with open_sound(path) as file:
        file.read()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all" * 9])
def test_what_is_no_sound_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    for place in (path, tmp_path / "gone.wav", tmp_path):
        with (
            pytest.raises(AudioError, match="cannot be read as audio") as caught,
            open_sound(place),
        ):
            pass
        assert str(caught.value).startswith(f"{place}: ")
        assert "\n" not in str(caught.value)
