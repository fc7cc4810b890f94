"""An ``Extraction`` in a notebook: players and a picture as HTML."""

from __future__ import annotations

import io
import re
import sys
from base64 import b64decode

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from singleout import Extractor
from singleout.model import QueriedSeparator
from tests.recordings import noise

pytestmark = pytest.mark.slow

AUDIO = re.compile(r'<audio controls src="data:audio/wav;base64,([^"]+)"></audio>')


IMAGE = re.compile(r'<img [^>]*src="data:image/png;base64,([^"]+)">')


def decoded_players(html: str) -> list[NDArray[np.float64]]:
    """Audio [channels, samples] of every player, as a browser decodes it."""
    decoded = [
        soundfile.read(io.BytesIO(b64decode(text)), always_2d=True) for text in AUDIO.findall(html)
    ]
    assert {rate for _, rate in decoded} == {8_000}
    return [audio.T for audio, _ in decoded]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_notebook_gets_players_and_a_picture(extractor: Extractor, channels: int) -> None:
    audio = noise(12_345, channels)
    result = extractor.extract(audio, 'a <b>dog</b> & "cat"', 8_000)
    html = result._repr_html_()
    players = decoded_players(html)
    parts = [audio, result.target, result.residual]
    assert len(players) == 3
    for player, part in zip(players, parts, strict=True):
        expected = part if channels <= 2 else part.mean(0, keepdims=True)
        assert player.shape == expected.shape
        np.testing.assert_allclose(player, expected.clip(-1, 1), rtol=0, atol=1 / 32_000)
    assert [html.count(f"<td>{name}</td>") for name in ("mixture", "target", "residual")] == [1] * 3
    (picture,) = IMAGE.findall(html)
    assert b64decode(picture).startswith(b"\x89PNG")
    assert "a &lt;b&gt;dog&lt;/b&gt; &amp; &quot;cat&quot;: 1.5 s<" in html
    assert "<b>dog" not in html


def test_a_player_in_a_notebook_is_limited_to_a_minute(
    identity_model: QueriedSeparator, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(61 * 8_000)
    result = Extractor(identity_model).extract(audio, "anything", 8_000)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html = result._repr_html_()
    players = decoded_players(html)
    assert [player.shape for player in players] == [(1, 60 * 8_000)] * 3
    np.testing.assert_allclose(players[0], audio[:, : 60 * 8_000], rtol=0, atol=1 / 32_000)
    assert "61.0 s, the first 60 s of each" in html
    assert not IMAGE.search(html)  # a picture needs matplotlib
