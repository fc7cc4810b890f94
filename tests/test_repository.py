"""What the repository promises: README blocks run, shipped configs parse, weights are small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import singleout
from singleout.config import load_config
from singleout.train.config import TrainConfig

ROOT = Path(__file__).parent.parent


RUNS = sorted(path for path in ROOT.glob("configs/**/*.yaml") if path.name != "study.yaml")


@pytest.mark.parametrize("path", RUNS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.steps > 0
    assert path.read_text().startswith("#"), "says its command, hours, machine and score"


@pytest.mark.parametrize("page", ["README.md", "docs/recordings.md"])
def test_python_blocks_of_the_docs_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


def test_packaged_weights_are_small() -> None:
    folder = Path(singleout.__file__).parent / "builtin"
    sizes = {
        part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file())
        for part in ("encoder", "extractor")
    }
    assert 0 < sizes["encoder"] <= 40e6
    assert sizes["extractor"] > 0
    assert sum(sizes.values()) <= 80e6
