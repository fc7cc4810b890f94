"""Claims, table and pictures, from made-up runs whose results are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.documents import BEGIN, END, fill_in
from recipes.paper.claims import (
    VIEWS,
    above_zero,
    claims,
    common,
    describe,
    difference,
    no_worse,
    query_gap,
    scores_of,
)
from recipes.paper.report import mean_curve, views_table, write_report
from recipes.paper.study import Line, Run, Study
from singleout.errors import ConfigError
from singleout.evaluate.statistics import Interval

pytestmark = pytest.mark.slow

SMALL = Path(__file__).parents[2] / "configs/paper/small.yaml"
NUM_MIXTURES = 60
TARGETS: dict[str, dict[str, Any]] = {
    name: {
        "digest": "d",
        "target": [f"clip{i % 20}.wav" for i in range(NUM_MIXTURES)],
        "seen_caption": [i % 20 < 5 for i in range(NUM_MIXTURES)],
    }
    for name in ("validation", "in_domain", "out_of_domain")
}

PARTS = ("claims", "rows", "views", "meta")

Means = dict[str, tuple[float, float]]


def line_of(study: Study, run: Run, means: dict[str, tuple[float, float]]) -> Line:
    """A run whose scores scatter by 0.1 dB about (text, audio) means by set."""
    rng = np.random.default_rng([run.seed, *run.row.encode()])
    scores: dict[str, dict[str, list[float]]] = {}
    for name in TARGETS:
        text, audio = means.get(name, (0.0, 0.0))
        scatter = rng.normal(0, 0.1, (2, NUM_MIXTURES))
        scores[name] = {
            "text": (text + scatter[0]).round(2).tolist(),
            "audio": (audio + scatter[1]).round(2).tolist(),
        }
    return {
        "row": run.row,
        "setting": run.setting,
        "seed": run.seed,
        "config_hash": study.hash_of(run),
        "encoder": "e",
        "git": "g",
        "machine": {"cpu": "c"},
        "steps": 10,
        "parameters": 5,
        "mixtures": dict.fromkeys(TARGETS, "d"),
        "training_s": 60.0,
        "evaluation_s": 1.0,
        "curve": [
            {"step": 5, "text": 1.0 + run.seed, "audio": 2.0},
            {"step": 10, "text": 3.0, "audio": 4.0},
        ],
        "si_sdri_db": scores,
    }


def study_of(rows: dict[str, Means]) -> Study:
    """All seeds of the first setting of each row; the other settings of a grid score lower."""
    empty = Study(SMALL)
    lines = []
    for name, means in rows.items():
        row = empty.rows[name]
        for number, setting in enumerate(row.grid):
            for seed in range(row.seeds if number == 0 else 1):
                lowered = {s: (t - number, a) for s, (t, a) in means.items()}
                lines.append(line_of(empty, Run(name, setting, seed), lowered))
    return Study(SMALL, lines, "e")


HELD: dict[str, Means] = {
    "text": {"validation": (3, 3), "in_domain": (3.0, 3.0), "out_of_domain": (1.0, 2.0)},
    "none": {"validation": (2, 3), "in_domain": (2.0, 4.0), "out_of_domain": (0.0, 3.0)},
    "dropout": {"validation": (3, 3), "in_domain": (2.8, 3.0), "out_of_domain": (1.5, 2.0)},
    "captioned": {"validation": (1, 1), "in_domain": (1.0, 1.0), "out_of_domain": (0.5, 1.0)},
    "captioned_audio": {"validation": (2, 2), "in_domain": (2.0, 2.0), "out_of_domain": (1, 1)},
}


def test_claims_follow_from_the_runs() -> None:
    judged = claims(study_of(HELD), TARGETS)
    assert sorted(judged) == ["1", "2", "3", "4"]
    expected = {"1": 2.0, "2": -0.2, "3": 1.0, "4": 0.5}
    for number, estimate in expected.items():
        claim = judged[number]
        assert claim["estimate"] == pytest.approx(estimate, abs=0.06)
        assert claim["low"] < claim["estimate"] < claim["high"]
        assert claim["held"] is True
        assert claim["verdict"] == "held"
        assert len(claim["by_seed"]) == 3
        assert claim["floored"]["estimate"] == pytest.approx(estimate, abs=0.06)
        assert claim["unseen_captions"]["estimate"] == pytest.approx(estimate, abs=0.1)
    assert judged["1"]["out_of_domain"]["estimate"] == pytest.approx(2.0, abs=0.06)
    assert judged["1"]["query_gap_none"]["estimate"] == pytest.approx(2.0, abs=0.06)
    assert judged["1"]["query_gap_text"]["estimate"] == pytest.approx(0.0, abs=0.06)
    wider = judged["4"]["margin_over_in_domain"]
    assert wider["estimate"] == pytest.approx(0.7, abs=0.06)
    assert wider["low"] < wider["estimate"] < wider["high"]
    assert judged["4"]["weaker_reading_held"] is True


def test_every_row_is_compared_with_text_and_with_dropout() -> None:
    study = study_of(HELD)
    none = describe(study, "none", "", TARGETS)
    assert none is not None
    assert none["in_domain"]["minus_text"]["estimate"] == pytest.approx(-1.0, abs=0.06)
    assert none["in_domain"]["minus_dropout"]["estimate"] == pytest.approx(-0.8, abs=0.06)
    assert none["out_of_domain"]["minus_dropout"]["estimate"] == pytest.approx(-1.5, abs=0.06)
    dropout = describe(study, "dropout", "p=0.5", TARGETS)
    assert dropout is not None
    assert "minus_dropout" not in dropout["in_domain"]
    cells = views_table([none]).splitlines()[2].split(" | ")
    assert cells[3].startswith("-0.8")
    only_row = describe(study_of({"none": HELD["none"]}), "none", "", TARGETS)
    assert only_row is not None
    assert not {"minus_text", "minus_dropout"} & set(only_row["in_domain"])


def test_claims_with_few_seeds_are_undecided() -> None:
    study = study_of(HELD)
    lines = [line for run, line in study.done.items() if run.seed < 2]
    judged = claims(Study(SMALL, lines, "e"), TARGETS)
    assert sorted(judged) == ["1", "2", "3", "4"]
    assert {claim["verdict"] for claim in judged.values()} == {"undecided"}


def test_the_first_claim_needs_a_gap_above_zero() -> None:
    """A negative gap that is smaller than that of text training is no overfitting."""
    rows: dict[str, Means] = {
        "text": {"in_domain": (3.0, 1.0), "out_of_domain": (1.0, 0.0)},
        "none": {"in_domain": (3.0, 2.0), "out_of_domain": (1.0, 1.0)},
    }
    claim = claims(study_of(rows), TARGETS)["1"]
    assert claim["low"] > 0
    assert claim["verdict"] == "not held"


def test_views_of_scores() -> None:
    (line,) = study_of({"text": HELD["text"]}).seeds_of("text")[:1]
    values = line["si_sdri_db"]["in_domain"]["text"]
    values[:10] = [-70.0] * 10
    values[20] = 50.0
    floored = scores_of([line], "in_domain", "text", TARGETS, VIEWS["floored"])
    assert floored.values.min() == -30
    assert floored.values.max() == 50
    unseen = scores_of([line], "in_domain", "text", TARGETS, VIEWS["unseen_captions"])
    assert unseen.values.tolist() == [v for i, v in enumerate(values) if i % 20 >= 5]
    assert len(np.unique(unseen.groups)) == 15


def test_failed_claims_are_not_held() -> None:
    worse: dict[str, Means] = {
        **HELD,
        "none": {"in_domain": (3.0, 2.0), "out_of_domain": (1.0, 1.0)},
        "dropout": {"in_domain": (1.0, 1.0), "out_of_domain": (0.0, 0.0)},
        "captioned_audio": {"in_domain": (0.0, 0.0), "out_of_domain": (0.0, 0.0)},
    }
    judged = claims(study_of(worse), TARGETS)
    assert {claim["verdict"] for claim in judged.values()} == {"not held"}
    assert not any(claim["held"] for claim in judged.values())


def test_claims_wait_for_their_rows() -> None:
    assert claims(study_of({"text": HELD["text"]}), TARGETS) == {}
    some = {name: HELD[name] for name in ("text", "dropout")}
    assert sorted(claims(study_of(some), TARGETS)) == ["2", "4"]


@pytest.mark.parametrize(
    ("interval", "zero", "equal"),
    [
        ((0.5, 0.1, 0.9), "held", "held"),
        ((0.5, -0.1, 0.9), "undecided", "held"),
        ((-0.4, -0.9, 0.1), "undecided", "held"),
        ((-0.4, -1.1, 0.3), "undecided", "undecided"),
        ((-0.6, -0.9, -0.3), "not held", "undecided"),
        ((-0.9, -1.2, -0.6), "not held", "not held"),
    ],
)
def test_verdicts(interval: tuple[float, float, float], zero: str, equal: str) -> None:
    difference_db = Interval(estimate=interval[0], low=interval[1], high=interval[2])
    assert above_zero(difference_db) == zero
    assert no_worse(difference_db) == equal


def test_differences_are_paired_by_seed_and_mixture() -> None:
    study = study_of(HELD)
    text, dropout = study.seeds_of("text"), study.seeds_of("dropout")
    first, second = common(list(reversed(dropout)), text[:2])
    assert [line["seed"] for line in first] == [line["seed"] for line in second] == [0, 1]
    exact = np.mean(
        [
            np.array(a["si_sdri_db"]["in_domain"]["text"])
            - np.array(b["si_sdri_db"]["in_domain"]["text"])
            for a, b in zip(first, second, strict=True)
        ]
    )
    scores = difference(dropout, text[:2], "in_domain", "text", TARGETS)
    assert scores.values.shape == (2 * NUM_MIXTURES,)
    assert scores.groups.shape == (2, 2 * NUM_MIXTURES)
    assert scores.interval()["estimate"] == pytest.approx(exact)
    one = query_gap(text[:1], "out_of_domain", TARGETS)
    assert one.groups.shape == (1, NUM_MIXTURES)
    assert one.interval()["estimate"] == pytest.approx(1.0, abs=0.06)


def results_folder(folder: Path) -> Path:
    references = {
        name: [value] * NUM_MIXTURES
        for name, value in [
            ("zeros", -30.0), ("mixture", 0.0), ("half_mixture", 0.0), ("oracle_mask", 12.0),
        ]
    }  # fmt: skip
    sets = {name: {**each, "references": references} for name, each in TARGETS.items()}
    (folder / "mixtures.json").write_text(json.dumps({"sets": sets}))
    return folder


def document_of(folder: Path) -> Path:
    path = folder / "paper.md"
    parts = [f"{BEGIN.format(name)}\nold\n{END.format(name)}" for name in PARTS]
    path.write_text("before\n" + "\nbetween\n".join(parts) + "\nafter\n")
    return path


def test_the_report_is_complete_and_repeatable(tmp_path: Path) -> None:
    folder, document = results_folder(tmp_path), document_of(tmp_path)
    study = study_of(HELD)
    write_report(study, folder, document)
    names = ["claims.json", "table.json", "rows.png", "dropout.png", "scaling.png", "curves.png"]
    first = {name: (folder / name).read_bytes() for name in [*names, "paper.md"]}
    for name in names[2:]:
        assert first[name].startswith(b"\x89PNG")
    stored: dict[str, Any] = json.loads(first["claims.json"])
    assert set(stored) == {"meta", "claims"}
    assert {"estimate", "low", "high", "held"} <= stored["claims"]["1"].keys()
    assert stored["meta"]["num_runs"] == len(study.done)
    text = first["paper.md"].decode()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| **dropout, p=0.5** | 3 |" in text
    assert "| dropout, p=0.9 | 1 |" in text
    assert "oracle mask" in text
    assert "**held**" in text
    write_report(study, folder, document)
    assert {name: (folder / name).read_bytes() for name in first} == first
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("rows", [[], ["text"], ["none", "captioned"]])
def test_the_report_of_an_unfinished_study(tmp_path: Path, rows: list[str]) -> None:
    folder = results_folder(tmp_path)
    write_report(study_of({name: HELD[name] for name in rows}), folder, document_of(tmp_path))
    assert json.loads((folder / "table.json").read_text())["references"]["zeros"]
    assert (folder / "rows.png").exists()


def test_runs_of_several_encoders_are_not_compared(tmp_path: Path) -> None:
    folder = results_folder(tmp_path)
    lines = study_of({"text": HELD["text"]}).seeds_of("text")
    lines[1] = {**lines[1], "encoder": "another"}
    with pytest.raises(ConfigError, match="several encoders"):
        write_report(Study(SMALL, lines), folder, None)
    other = {**lines[0], "mixtures": {"in_domain": "another"}}
    with pytest.raises(ConfigError, match="scored on other mixtures of 'in_domain'"):
        write_report(Study(SMALL, [other]), folder, None)
    (folder / "mixtures.json").unlink()
    with pytest.raises(ConfigError, match=r"mixtures\.json"):
        write_report(Study(SMALL), folder, None)


def test_a_document_without_marks_is_not_changed(tmp_path: Path) -> None:
    document = tmp_path / "paper.md"
    document.write_text("nothing to fill in")
    with pytest.raises(ConfigError, match="begin rows"):
        fill_in(document, {"rows": "x"})
    assert document.read_text() == "nothing to fill in"


def test_curves_are_means_over_seeds() -> None:
    lines = study_of(HELD).seeds_of("text")
    assert mean_curve(lines, "text") == ([5, 10], [2.0, 3.0])
    lines[0]["curve"] = lines[0]["curve"][1:]
    assert mean_curve(lines, "audio") == ([10], [4.0])
