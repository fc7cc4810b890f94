"""Addresses where a path is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleout.storage.addresses import address_of


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.wav",
        "http://example.org",
        "ftp://example.org/a b.wav",
        "rtsp://camera:554/1",
        "s3://bucket/a.wav",
        "file:///home/me/a.wav",
        "HTTPS://EXAMPLE.ORG/?q=*",
    ],
)
def test_addresses(address: str) -> None:
    assert address_of(address) == address.replace(":///", "://")
    assert address_of(Path(address)) == address.replace(":///", "://")


@pytest.mark.parametrize(
    "path",
    [
        "a.wav",
        "C:/sounds/a.wav",
        r"C:\sounds\a.wav",
        "a:b",
        "12:30/a.wav",
        "./s3://x",
        "",
        "n" * 999,
    ],
)
def test_paths(path: str) -> None:
    assert address_of(path) is None


def test_a_path_that_exists_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tape:").mkdir()
    (tmp_path / "tape:" / "a.wav").touch()
    assert address_of("tape:/a.wav") is None
    assert address_of("tape:/b.wav") == "tape://b.wav"


def test_a_long_address_is_cut() -> None:
    shown = address_of("https://example.org/" + "x" * 5_000)
    assert shown is not None
    assert len(shown) == 100
