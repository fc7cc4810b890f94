"""Tiny CLAPs for the tests of encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from singleout.encoders import ClapEncoder
from tests.encoders.clap_models import tiny_encoder


@pytest.fixture(scope="package", params=[False, True], ids=["unfused", "fused"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ClapEncoder:
    return tiny_encoder(tmp_path_factory.mktemp("tokenizer"), fused=request.param)


@pytest.fixture(scope="package")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved unfused encoder; not to be changed."""
    folder = tmp_path_factory.mktemp("clap")
    tiny_encoder(folder / "tokenizer").save_pretrained(folder / "encoder")
    return folder / "encoder"


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy of ``saved``, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))
