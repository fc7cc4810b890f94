"""The extractor: experiments, warm start, shipping, and its tables in the documents."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from recipes.builtin import (
    card,
    experiment,
    members,
    ship,
    showcase,
    warm_start,
)
from singleout.condition import Condition
from singleout.config import load_config
from singleout.data.manifest import read_manifest
from singleout.encoders import BuiltinEncoder
from singleout.manipulations import Chain, FitEmbeddings, Manipulator, Neighbours
from singleout.model import ModelConfig, QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.corpus import split_clips
from singleout.train.run import calibrate, train
from singleout.types import Query
from tests.conftest import TINY_SEPARATOR
from tests.recipes.builtin.corpora import tiny_config, write_corpus

pytestmark = pytest.mark.slow


def test_the_time_of_a_step_is_that_of_additional_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start of 10 s does not count. Trials end where the additional steps take long enough."""
    now = [0.0]
    trials = []

    def train_for(config: TrainConfig) -> None:
        trials.append(config.steps)
        now[0] += 10 + 15 * config.steps
        assert config.validation.num_mixtures == 0

    monkeypatch.setattr(experiment, "train", train_for)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    config = TrainConfig(
        manifest=Path("unused"), output=Path("unused"), model=ModelConfig(separator=TINY_SEPARATOR)
    )
    assert experiment.seconds_per_step(config) == 15
    assert trials == [1, 3]


def test_an_experiment_is_a_line_and_a_row(
    tmp_path: Path, debug_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains with its overrides and scores all kinds of queries; the table shows every line."""
    config = tiny_config(tmp_path, debug_encoder_folder)
    lines, document = tmp_path / "experiments.jsonl", tmp_path / "experiments.md"
    monkeypatch.setattr(experiment, "RESULTS", lines)
    monkeypatch.setattr(experiment, "DOCUMENT", document)
    monkeypatch.setattr(experiment, "seconds_per_step", lambda config: 0.006)
    document.write_text("# Experiments\n\n<!-- begin experiments -->\n<!-- end experiments -->\n")

    def call(name: str, *changes: str) -> None:
        arguments = [name, *changes, "--tried", f"what {name}", "--config", str(config)]
        arguments += ["--minutes", "0.0001", "--mixtures", "4", "--folder", str(tmp_path / "runs")]
        arguments += ["--encoder", str(debug_encoder_folder)]
        monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
        experiment.main()

    call("one", "learning_rate=0.002", "absent_weight=0.3")
    (line,) = experiment.read_lines(lines)
    assert line["changes"] == ["learning_rate=0.002", "absent_weight=0.3"]
    assert line["steps"] == 1
    assert line["seconds_per_step"] == 0.006
    assert line["cost"]["gflop_per_second"] > 0
    assert line["config"]["model"]["negative"]
    assert set(line["found"]) == {"2 sources", "3 sources"}
    assert "not the other" in line["found"]["3 sources"]["questions"]
    assert 0 <= line["found"]["2 sources"]["presence_auroc"]["absent"]["estimate"] <= 1
    saved = json.loads((tmp_path / "runs" / "one" / "config.json").read_text())
    assert (saved["learning_rate"], saved["absent_weight"]) == (0.002, 0.3)
    with pytest.raises(SystemExit, match="has an experiment 'one' already"):
        call("one")

    # A second experiment is another line below; its training would be a repetition.
    monkeypatch.setattr(
        experiment, "run", lambda name, args: {**line, "name": name, "tried": args.tried}
    )
    call("two")
    assert [each["name"] for each in experiment.read_lines(lines)] == ["one", "two"]
    text = document.read_text()
    assert text.startswith("# Experiments")
    assert text.index("**one** what one") < text.index("**two** what two")
    assert "`absent_weight=0.3`" in text


def test_an_experiment_continues_only_with_the_same_settings(
    tmp_path: Path, debug_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "seconds_per_step", lambda config: 0.5)
    config = load_config(TrainConfig, tiny_config(tmp_path, debug_encoder_folder))
    plan = experiment.planned(tmp_path / "run", config, minutes=1.0)
    assert plan["steps"] == 120
    monkeypatch.setattr(experiment, "seconds_per_step", lambda config: 9.0)
    assert experiment.planned(tmp_path / "run", config, minutes=1.0) == plan
    with pytest.raises(SystemExit, match="began with other settings"):
        experiment.planned(tmp_path / "run", config, minutes=2.0)


def test_the_trained_model_ships_with_the_manipulation_of_the_config(
    tmp_path: Path, debug_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(debug_encoder_folder, tmp_path / "encoder")
    output = str(tmp_path / "run")
    steps: list[dict[str, Any]] = [{"type": "neighbours", "sounds": 4}, {"type": "dropout"}]
    config = tiny_config(tmp_path, tmp_path / "encoder", output, manipulation={"steps": steps})
    run = load_config(TrainConfig, config, ["steps=2"])
    trained = QueriedSeparator.from_pretrained(train(run))
    steps[0]["sounds"] = 2
    tiny_config(tmp_path, tmp_path / "encoder", output, manipulation={"steps": steps})
    package = tmp_path / "package"
    shutil.copytree(debug_encoder_folder, package / "encoder")
    arguments = ["ship", "--config", str(config), "--package", str(package)]
    monkeypatch.setattr(sys, "argv", arguments)
    ship.main()
    encoder = BuiltinEncoder.from_pretrained(package / "encoder")
    shipped = QueriedSeparator.from_pretrained(package / "extractor", encoder)
    assert shipped.config.encoder.name == "builtin"
    query = Query(("tone 3",))
    assert trained.embed(query).weights.shape == (1, 4)
    assert torch.equal(shipped.embed(query).embeddings, trained.embed(query).embeddings[:, :2])
    mixture = 0.1 * torch.randn(1, 1, 9_000)
    condition = shipped.embed(query)
    torch.testing.assert_close(shipped(mixture, condition), trained(mixture, condition))
    presence, gate = shipped.config.presence, shipped.config.gate
    calibrate(shipped, split_clips(run)[1], run.validation)
    assert presence == shipped.config.presence != trained.config.presence
    assert gate == shipped.config.gate

    torch.nn.init.normal_(next(encoder.network.text_head.parameters()), std=0.1)
    encoder.save_pretrained(package / "encoder")
    with pytest.raises(
        SystemExit, match=r"text embeddings .* differ by .* run recipes\.builtin\.distil again"
    ):
        ship.main()


def test_settings_of_neighbours_are_compared_by_the_outputs_of_the_model(
    tmp_path: Path, debug_encoder: BuiltinEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs are those of a model of each setting, but each sound is decoded once."""
    clips = list(read_manifest(write_corpus(tmp_path), "validation"))
    steps = Chain(steps=(Neighbours(sounds=2),))
    model = QueriedSeparator(
        ModelConfig(separator=TINY_SEPARATOR, manipulation=steps), debug_encoder
    ).eval()
    generator = torch.Generator().manual_seed(0)
    memory = F.normalize(torch.randn(30, 32, generator=generator), dim=-1)
    model.manipulator.fit(
        FitEmbeddings(memory, torch.zeros(0, 32), torch.zeros(0, dtype=torch.long))
    )
    words = debug_encoder.embed_text("tone 3")
    mixture = 0.1 * torch.randn(9_000, generator=generator)
    state = model.manipulator.state or {}
    with torch.inference_mode():
        estimates = members.separate(model, state["0.memory"], words, mixture)
        for step, estimate in zip(members.GRID, list(estimates), strict=True):
            model.manipulator = Manipulator(Chain(steps=(step,)), 32, state)
            expected = model(mixture[None, None], model.embed(Query(("tone 3",))))[0, 0]
            torch.testing.assert_close(estimate, expected, atol=1e-5, rtol=1e-4)
    rows = members.scored(model, clips, 2)
    assert [row["sounds"] for row in rows] == [step.sounds for step in members.GRID]
    text = members.table(rows, members.GRID[5])
    assert text.count("**2**") == 0
    assert text.count("| **4** | **0.5** | **0.1** |") == 1


def test_cases_to_listen_to_have_their_scores(
    tmp_path: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worst, median and best of the free mixtures, with files of the scored signals."""
    manifest = write_corpus(tmp_path, "test")
    output = tmp_path / "cases"
    model = ["--model", str(debug_model_folder)]
    output.mkdir()
    (output / "old-9.mixture.ogg").touch()
    where = ["--manifest", str(manifest), "--output", str(output), "--mixtures", "14"]
    monkeypatch.setattr(sys, "argv", ["showcase", *where, *model])
    showcase.main()
    table = (output / "README.md").read_text()
    scores = [float(line.split("|")[4]) for line in table.splitlines() if "ogg" in line]
    assert len(scores) == 9
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]
    assert "package1 (CC0-1.0)" in table
    files = sorted(path.name for path in output.glob("*.ogg"))
    assert len(files) == 27
    assert "old-9.mixture.ogg" not in files
    worst = {
        kind: soundfile.read(output / f"worst-1.{kind}.ogg")[0] for kind in ("mixture", "target")
    }
    assert len(worst["mixture"]) == len(worst["target"]) == 4 * 32_000
    assert np.square(worst["target"]).mean() < np.square(worst["mixture"]).mean()


def test_the_next_extractor_gives_the_targets_of_the_one_before(
    debug_model: QueriedSeparator, debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """It has another space and new negative prompts, whatever it learns later."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(32, 32))[0]
    old = F.normalize(torch.randn(400, 32), dim=-1)
    new = old @ rotation
    to_old = warm_start.linear_map(new, old)
    torch.testing.assert_close(new @ to_old, old, atol=0.02, rtol=0.05)
    config = ModelConfig(
        separator=TINY_SEPARATOR, negative=True, manipulation=Chain(steps=(Neighbours(),))
    )
    made = warm_start.with_query_map(config, debug_encoder, debug_model, rotation.T)
    made.save_pretrained(tmp_path)
    model = QueriedSeparator.from_pretrained(tmp_path, debug_encoder)
    mixture = torch.randn(2, 1, 8_000)
    expected = debug_model(mixture, Condition.single(old[:2]))
    target = model(mixture, model.condition(new[:2], is_text=False))
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-3)
    without_effect = Condition.combine(Condition.single(new[:2]), Condition.single(new[2:4]))
    torch.testing.assert_close(model(mixture, without_effect), expected, atol=1e-4, rtol=1e-3)

    def only_negative(embeddings: Tensor) -> Condition:
        return Condition.combine(Condition.missing(32, batch=2), Condition.single(embeddings))

    with torch.no_grad():  # now negative prompts have an effect
        model.separator.state_dict()["query.0.weight"][:, 32:] = torch.randn(32)
    back = warm_start.with_query_map(config, debug_encoder, model, rotation).eval()
    torch.testing.assert_close(
        back(mixture, only_negative(old[2:4])),
        model(mixture, only_negative(new[2:4])),
        atol=1e-4,
        rtol=1e-3,
    )
    plain = config.model_copy(update={"negative": False})
    with pytest.raises(ValueError, match="takes negative prompts, but the new model does not"):
        warm_start.with_query_map(plain, debug_encoder, model, rotation)
    wide = ModelConfig(separator=TINY_SEPARATOR.model_copy(update={"bottleneck": 24}))
    with pytest.raises(ValueError, match="another size of"):
        warm_start.with_query_map(wide, debug_encoder, debug_model, rotation)


def test_in_the_same_space_the_earlier_extractor_is_copied(
    tmp_path: Path,
    debug_encoder_folder: Path,
    debug_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read from the git history, where its encoder has another name."""
    package = tmp_path / warm_start.PACKAGE
    shutil.copytree(debug_encoder_folder, package / "encoder")
    shutil.copytree(debug_model_folder, package / "extractor")
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a package"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / "src")
    work = tmp_path / "work"
    shutil.copytree(debug_encoder_folder, work / "encoder")
    config = tiny_config(tmp_path, work / "encoder", str(work / "run"))
    values = json.loads(config.read_text())
    values |= {"init": str(work / "init"), "embeddings": str(work / "embeddings.sqlite")}
    config.write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["warm_start", "--config", str(config), "--commit", "HEAD"])
    warm_start.main()
    made = load_file(work / "init" / "model.safetensors")
    before = load_file(debug_model_folder / "model.safetensors")
    assert made.keys() == before.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in before.items())


def test_text_embeddings_show_whether_two_encoders_have_the_same_space(
    debug_encoder: BuiltinEncoder, debug_encoder_folder: Path
) -> None:
    again = BuiltinEncoder.from_pretrained(debug_encoder_folder)
    assert warm_start.text_difference(debug_encoder, again) == 0
    torch.nn.init.normal_(next(again.network.text_head.parameters()), std=0.1)
    assert warm_start.text_difference(debug_encoder, again) > warm_start.SAME_WORDS
    again.dim = 16
    assert warm_start.text_difference(debug_encoder, again) == float("inf")


def test_the_card_has_a_row_for_each_kind_of_query_and_family() -> None:
    interval = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    scores = {"mean": interval, "share_improved": interval}
    queries = {
        "text": {"si_sdri_db": scores, "level_within_3_db": interval, "suppression_db": interval},
        "absent": {"suppression_db": {"estimate": 21.0, "low": 20.0, "high": 22.0}},
    }
    lines = card.questions_table({"2 sounds": {"questions": queries}}).splitlines()
    assert lines[2].startswith("| 2 sounds | text | 0.50 [0.40, 0.60] | 50 % [40, 60] | 50 %")
    assert lines[3] == "| 2 sounds | absent |  |  |  | 21.00 [20.00, 22.00] |"
    scores["median"] = interval
    short = card.short_table(
        {"systems": {kind: {"si_sdri_db": scores} for kind in ("text", "audio")}},
        {"3 sounds": {"questions": {"text": {"si_sdri_db": scores}}}},
    )
    assert short.splitlines()[2] == "| text | 0.50 [0.40, 0.60] dB | 0.50 dB | 50 % |"
    assert len(short.splitlines()) == 5
    rows = [
        {"question": "text", "family": f, "target": t, "si_sdri_db": s, "improved": s > 0}
        for f, t, s in [("tool", "a", -2.0), ("animal", "b", 3.0), ("animal", "b", 1.0)]
    ]
    rows.append({"question": "audio", "family": "tool", "target": "a", "si_sdri_db": 9.0})
    assert card.families_table(rows).splitlines()[2:] == [
        "| animal | 2 | 1 | 2.00 | 100 % |",
        "| tool | 1 | 1 | -2.00 | 0 % |",
    ]
