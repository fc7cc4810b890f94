"""Progress bars: only on a terminal, and the items are given unchanged."""

from __future__ import annotations

import io
import sys

import pytest

from singleout.progress import track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_the_items_are_given_in_their_order(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(track([3, 1, 2], "counting")) == [3, 1, 2]
    assert list(track(iter("ab"), "counting", total=2)) == ["a", "b"]


def test_there_is_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    texts = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        list(track(["a"], "counting"))
        texts.append(stream.getvalue())
    assert texts[0] == ""
    assert "counting" in texts[1]
