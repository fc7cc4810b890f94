"""``singleout.train`` as it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import singleout.train
from singleout.errors import MissingExtraError


def test_the_public_names_are_locked() -> None:
    expected = ["TrainConfig", "UncaptionedConfig", "ValidationConfig", "train"]
    assert singleout.train.__all__ == expected
    assert set(expected) <= set(dir(singleout.train))
    with pytest.raises(AttributeError, match=r"'singleout\.train' has no attribute 'nothing'"):
        singleout.train.nothing  # noqa: B018


def test_the_names_are_those_of_the_modules() -> None:
    from singleout.train import TrainConfig, train
    from singleout.train.config import TrainConfig as Config
    from singleout.train.run import train as run

    assert TrainConfig is Config
    assert train is run


def test_importing_loads_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, singleout.train; "
        "print(sorted({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("singleout.train.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'singleout\[train\]'"):
        singleout.train.train  # noqa: B018
