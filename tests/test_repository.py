"""What the repository promises: shipped configs parse, weights are small, the workflow is CI's."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import singleout
from singleout.config import load_config
from singleout.train.config import TrainConfig

ROOT = Path(__file__).parent.parent
RUNS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("configs/paper/*_common.yaml")])


@pytest.mark.parametrize("path", RUNS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.steps > 0
    assert path.read_text().startswith("#"), "says its command, hours, machine and score"


def test_packaged_weights_are_small() -> None:
    folder = Path(singleout.__file__).parent / "builtin"
    sizes = {
        part: sum(f.stat().st_size for f in (folder / part).rglob("*") if f.is_file())
        for part in ("encoder", "extractor")
    }
    assert 0 < sizes["encoder"] <= 40e6
    assert sizes["extractor"] > 0
    assert sum(sizes.values()) <= 80e6


def test_hosted_ci_runs_the_commands_of_this_machine() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, "is executable"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == singleout.__version__
