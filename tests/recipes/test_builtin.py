"""The recipe of the built-in model: alignment, folds, heads, and what the audio tower hears."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from recipes.builtin import (
    card,
    experiment,
    heads_quality,
    members,
    ship,
    showcase,
    warm_start,
)
from recipes.builtin import features as features_module
from recipes.builtin.alignment import RANKS, Split, fit, pair_accuracy
from recipes.builtin.distil import start_from
from recipes.builtin.embed import (
    NUM_FOLDS,
    fold_of,
    tagged,
    write_uncaptioned,
)
from recipes.builtin.features import TeacherFeatures, TeacherOutput, teacher_features
from recipes.builtin.heads import (
    CROPS_PER_CLIP,
    Crops,
    Recipe,
    Words,
    read_phrases,
    train_heads,
)
from recipes.builtin.shards import CROP_SECONDS, draw, plain, sampling_weight
from singleout.config import load_config
from singleout.data.embeddings import EmbeddingTable
from singleout.data.manifest import Clip, read_manifest
from singleout.encoders import BuiltinEncoder
from singleout.encoders.audio_tower import SAMPLE_RATE
from singleout.encoders.builtin import BuiltinNetwork
from singleout.manipulations import Chain, FitEmbeddings, Manipulator, Neighbours
from singleout.model import ModelConfig, QueriedSeparator
from singleout.train.config import TrainConfig
from singleout.train.run import calibrate, split_clips, train
from singleout.types import Query
from tests.conftest import TINY_SEPARATOR


def clip(path: Path, label: str = "animal/dog", group: str = "g") -> Clip:
    return Clip(path, 1.0, "a dog barking", (), label, group, "train")


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Forty sounds in ten packages, four classes of two families."""
    rng = np.random.default_rng(0)
    labels = ["animal/dog", "animal/cat", "tool/saw", "tool/drill"]
    found = []
    for i in range(40):
        path = tmp_path / f"package{i % 10}" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, SAMPLE_RATE // 4 + 999 * i), SAMPLE_RATE)
        found.append(clip(path, labels[i % 4], f"g{i}"))
    return found


def test_alignment_removes_a_modality_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(200, 6, generator=generator) @ torch.randn(6, 64, generator=generator)
    gap = torch.zeros(64)
    gap[0] = 20
    sounds = F.normalize(shared + gap, dim=-1)
    captions = F.normalize(shared - gap, dim=-1)
    clips = [clip(Path(f"{i}.wav"), f"family{i}/x") for i in range(200)]
    # As many sounds without captions, of another kind: they move neither the middle nor the axes.
    others = [replace(clip(Path(f"{i}.wav")), caption=None) for i in range(200)]
    other = F.normalize(gap + 5 * torch.ones(200, 64), dim=-1)
    table = EmbeddingTable(torch.cat([sounds, other]), torch.arange(401))
    alignment = fit(Split(clips + others, table, captions), rank=6)
    said = alignment(captions, alignment.text_mean)
    heard = alignment(sounds, alignment.audio_mean)
    assert float((sounds * captions).sum(-1).mean()) < 0.1
    assert float((heard * said).sum(-1).mean()) > 0.95
    assert heard.shape == (200, 6)
    torch.testing.assert_close(heard.norm(dim=-1), torch.ones(200))


def test_pair_accuracy_compares_other_families_alone() -> None:
    clips = [clip(Path(f"{i}"), label) for i, label in enumerate(["a/1", "a/2", "b/1"])]
    captions = torch.eye(3)
    # The first caption is nearer to the second sound (same family) than to its own: not counted.
    # The third is nearer to the first: one wrong of its two, of four pairs in all.
    sounds = torch.tensor([[0.5, 0.0, 0.9], [0.9, 1.0, 0.0], [0.0, 0.0, 0.6]])
    assert pair_accuracy(sounds, captions, clips) == pytest.approx(3 / 4)


def test_folds_keep_packages_and_groups_together(clips: list[Clip]) -> None:
    tied = [replace(c, group="tied") if i in (0, 1) else c for i, c in enumerate(clips)]
    fold = fold_of(tied)
    assert set(fold) == set(range(NUM_FOLDS))
    assert fold[0] == fold[1]
    for package in {c.path.parent for c in clips}:
        untied = {fold[i] for i, c in enumerate(tied) if c.path.parent == package and i > 1}
        assert len(untied) == 1


def test_the_tower_hears_the_same_crop_for_the_same_number(clips: list[Clip]) -> None:
    weight = sampling_weight(clips)
    assert weight[-1] == pytest.approx(1)
    crops = [draw(clips, weight, seed=1, index=i) for i in range(30)]
    for index, crop in enumerate(crops):
        assert crop.shape == (round(CROP_SECONDS * SAMPLE_RATE),)
        assert crop.dtype == np.float32
        assert 0 < np.abs(crop).max() <= 0.96
        np.testing.assert_array_equal(crop, draw(clips, weight, seed=1, index=index))
    assert not np.array_equal(crops[0], draw(clips, weight, seed=2, index=0))


def test_heads_learn_to_match_captions(clips: list[Clip]) -> None:
    """On features that tell the class, a caption ends up nearest to its own class."""
    generator = torch.Generator().manual_seed(0)
    classes = [0, 1, 2, 3] * 10
    prototypes = torch.randn(4, 2_953, generator=generator)
    noise = torch.randn(40, CROPS_PER_CLIP, 2_953, generator=generator)
    vectors = F.normalize(torch.randn(4, 384, generator=generator), dim=-1)
    crops = Crops(prototypes[classes][:, None] + 0.1 * noise, torch.zeros(40, CROPS_PER_CLIP, 521))
    names = F.normalize(torch.randn(521, 384, generator=generator), dim=-1)
    words = Words([vectors[c][None] for c in classes], list(names[:, None]))
    recipe = Recipe(dim=16, hidden=32, steps=60, batch_size=32, names_weight=0.0, members=2)
    audio, text = train_heads(clips, crops, words, np.arange(40), recipe)
    with torch.no_grad():
        similarity = text(vectors) @ audio(crops.features[:, 0]).T
        own = torch.tensor(classes)[None] == torch.arange(4)[:, None]
        assert float(similarity[own].min()) > float(similarity[~own].max())
    fixed = {k: v.clone() for k, v in text.state_dict().items()}
    other, same = train_heads(clips, crops, words, np.arange(20), recipe, text)
    assert all(torch.equal(v, fixed[k]) for k, v in same.state_dict().items())
    assert other is not audio
    one, another = (head(vectors) for head in text.heads)
    assert not torch.allclose(one, another, atol=0.1)
    both = text(vectors)
    torch.testing.assert_close(both @ both.T, (one @ one.T + another @ another.T) / 2)


def test_heads_learn_from_sounds_without_captions() -> None:
    """What the tagger hears in them, said in any of the class's phrases."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.arange(3).repeat(20)  # of classes 5, 6 and 7; captioned are those of 5 alone
    prototypes = torch.randn(3, 2_953, generator=generator)
    noise = torch.randn(60, CROPS_PER_CLIP, 2_953, generator=generator)
    logits = torch.full((60, CROPS_PER_CLIP, 521), -20.0)
    logits[torch.arange(60), :, 5 + kinds] = 20
    phrases = list(F.normalize(torch.randn(521, 2, 384, generator=generator), dim=-1))
    captions = [phrases[5][:1] if kind == 0 else torch.zeros(0, 384) for kind in kinds.tolist()]
    clips = [clip(Path(f"{i}.wav"), f"a/{kind}") for i, kind in enumerate(kinds.tolist())]
    recipe = Recipe(dim=16, hidden=32, steps=80, batch_size=16, uncaptioned_batch_size=32)
    crops = Crops(prototypes[kinds][:, None] + 0.1 * noise, logits)
    audio, text = train_heads(clips, crops, Words(captions, phrases), np.arange(60), recipe)
    with torch.no_grad():
        heard = audio(crops.features[:, 0])
        for phrase in range(2):
            said = text(torch.stack([phrases[number][phrase] for number in (5, 6, 7)]))
            assert torch.equal((heard @ said.T).argmax(1), kinds)


def test_every_class_has_phrases_of_its_own() -> None:
    phrases = read_phrases()
    assert len(phrases) == 521
    everything = [text for said in phrases.values() for text in said[1:]]
    assert len(set(everything)) == len(everything) > 3_500
    assert all(name.lower() == said[0] for name, said in phrases.items())
    assert all(6 <= len(said) - 1 <= 10 for said in phrases.values())
    assert all(text == text.lower().strip() and len(text.split()) <= 9 for text in everything)
    words = Words([], [torch.eye(384)[: len(said)] for said in phrases.values()])
    drawn = words.drawn(np.random.default_rng(0))
    assert drawn.shape == (521, 384)
    assert len(set(drawn.argmax(1).tolist())) > 5
    torch.testing.assert_close(words.names.norm(dim=-1), torch.ones(521))


def test_sounds_without_captions_are_of_the_class_that_is_heard(tmp_path: Path) -> None:
    logits = np.full((4, 521), -10, np.float16)
    logits[[0, 1, 2, 3], [7, 7, 3, 9]] = [5, 8, 5, 4]
    features = TeacherFeatures(
        np.zeros((4, 1_024), np.float16), logits, np.array([0, 1, 3, 4]),
        np.zeros((3, 512), np.float16), np.arange(4),
    )  # fmt: skip
    names = [f"class {i}" for i in range(521)]
    other = [replace(clip(tmp_path / f"{i}.wav"), caption=None, group=f"g{i}") for i in range(2)]
    found = tagged(other, 1, features, names)
    assert [c.label for c in found] == ["class 7", "class 9"]
    for c in found:
        c.path.touch()
    write_uncaptioned(found, tmp_path / "uncaptioned.jsonl")
    again = read_manifest(tmp_path / "uncaptioned.jsonl")
    assert [(c.path, c.label, c.group, c.caption, c.seconds) for c in again] == [
        (c.path, c.label, c.group, None, c.seconds) for c in found
    ]


def test_quality_of_heads_is_that_of_sounds_left_out() -> None:
    """Features that tell the class, and captions of it: perfect; and rows without captions pass."""
    generator = torch.Generator().manual_seed(2)
    kinds = torch.arange(60) % 3
    prototypes = torch.randn(3, 2_953, generator=generator)
    noise = 0.1 * torch.randn(60, CROPS_PER_CLIP, 2_953, generator=generator)
    crops = Crops(prototypes[kinds][:, None] + noise, torch.zeros(60, CROPS_PER_CLIP, 521))
    vectors = F.normalize(torch.randn(3, 384, generator=generator), dim=-1)
    phrases = list(F.normalize(torch.randn(521, 1, 384, generator=generator), dim=-1))
    clips = [clip(Path(f"{i}.wav"), f"family {k}/x") for i, k in enumerate(kinds.tolist())]
    bare = range(45, 60, 2)
    clips = [replace(c, caption=None) if i in bare else c for i, c in enumerate(clips)]
    captions = [
        vectors[k][None] if i not in bare else torch.zeros(0, 384)
        for i, k in enumerate(kinds.tolist())
    ]
    words = Words(captions, phrases)
    recipe = heads_quality.changed(["dim=20", "hidden=32", "steps=60", "members=2"])
    assert (recipe.dim, recipe.members, recipe.seed) == (20, 2, Recipe().seed)
    rows = np.arange(40)
    heads = train_heads(clips, crops, words, rows, recipe)
    found = heads_quality.accuracies(heads, clips, crops, words, rows, np.arange(40, 60))
    assert set(found) == {"none", *(str(rank) for rank in RANKS if rank < 40)}
    assert found["none"] == 1
    shuffled = Words([captions[i % 40] for i in range(60)], phrases)
    wrong = heads_quality.accuracies(heads, clips, crops, shuffled, rows, np.arange(40, 44))
    assert wrong["none"] < 0.5
    line = {"name": "n", "tried": "t", "changes": ["dim=16"], "folds": [found], "validation": wrong}
    assert "| **n** t | `dim=16` | 1.0000 |" in heads_quality.table([line])
    with pytest.raises(SystemExit, match="'width=3': write key=value with a key of dim, hidden"):
        heads_quality.changed(["width=3"])


# The search


def write_corpus(folder: Path, held_out: str = "validation") -> Path:
    """Tones of three families, enough of each split for mixtures of three; every other one free."""
    rows = []
    for i in range(18):
        time = np.arange(32_000) / 32_000
        tone = 0.3 * np.sin(2 * np.pi * 200 * 1.25**i * time).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", tone, 32_000)
        split = "train" if i < 9 else held_out
        rows.append(
            {
                "path": f"{i}.wav",
                "seconds": 1.0,
                "caption": f"tone {i}",
                "class": f"family {i % 3}/{i}",
                "group": f"g{i}",
                "split": split,
                "redistributable": i % 4 != 0,
                "license": "CC0-1.0",
                "origin": {"package": f"package{i % 2}"},
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def tiny_config(folder: Path, encoder: Path, output: str = "unused", **model: Any) -> Path:
    """A config that trains on the corpus in ``folder``."""
    mixtures = {"segment_seconds": 0.5, "crop_hop_seconds": 0.25}
    values = {
        "manifest": str(write_corpus(folder)),
        "output": output,
        "model": {
            "separator": TINY_SEPARATOR.model_dump(mode="json"),
            "negative": True,
            "encoder": {"name": str(encoder)},
            **model,
        },
        "mixtures": mixtures,
        "validation": {"mixtures": mixtures | {"num_sources": [2, 2]}},
        "queries": {"absent_share": 0.2, "removal_share": 0.1, "contrast_share": 0.2},
        "num_workers": 0,
        "batch_size": 2,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return path


def test_an_experiment_is_a_line_and_a_row(
    tmp_path: Path, debug_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its overrides are trained, all its questions asked; the table shows every line."""
    config = tiny_config(tmp_path, debug_encoder_folder)
    monkeypatch.setattr(experiment, "RESULTS", tmp_path / "experiments.jsonl")
    monkeypatch.setattr(experiment, "DOCUMENT", tmp_path / "experiments.md")
    marks = "<!-- begin experiments -->\n<!-- end experiments -->\n"
    (tmp_path / "experiments.md").write_text(f"# Experiments\n\n{marks}")
    for name, change in (("one", "learning_rate=0.002"), ("two", "absent_weight=0.3")):
        arguments = [name, change, "--tried", f"what {name}", "--config", str(config)]
        budget = ["--minutes", "0.0001", "--mixtures", "4", "--folder", str(tmp_path / "runs")]
        budget += ["--encoder", str(debug_encoder_folder)]
        monkeypatch.setattr(sys, "argv", ["experiment", *arguments, *budget])
        experiment.main()
    lines = [json.loads(line) for line in (tmp_path / "experiments.jsonl").read_text().splitlines()]
    assert [line["changes"] for line in lines] == [["learning_rate=0.002"], ["absent_weight=0.3"]]
    for line in lines:
        assert line["steps"] >= 1
        assert line["cost"]["gflop_per_second"] > 0
        assert line["config"]["model"]["negative"]
        assert set(line["found"]) == {"2 sources", "3 sources"}
        assert "not the other" in line["found"]["3 sources"]["questions"]
        assert 0 <= line["found"]["2 sources"]["presence_auroc"]["absent"]["estimate"] <= 1
    with pytest.raises(SystemExit, match="has an experiment 'two' already"):
        experiment.main()
    saved = json.loads((tmp_path / "runs" / "two" / "config.json").read_text())
    assert saved["absent_weight"] == 0.3
    document = (tmp_path / "experiments.md").read_text()
    assert document.startswith("# Experiments")
    assert document.index("**one** what one") < document.index("**two** what two")
    assert "`absent_weight=0.3`" in document


def test_what_ships_is_what_was_trained_and_answers_words_as_the_config_says_now(
    tmp_path: Path, debug_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(debug_encoder_folder, tmp_path / "encoder")
    output = str(tmp_path / "run")
    steps = [{"type": "neighbours", "sounds": 4}, {"type": "dropout"}]
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
    told, gate, before = shipped.config.presence, shipped.config.gate, trained.config.presence
    calibrate(shipped, split_clips(run)[1], run.validation)
    assert told == shipped.config.presence != before
    assert gate == shipped.config.gate

    torch.nn.init.normal_(next(encoder.network.text_head.parameters()), std=0.1)
    encoder.save_pretrained(package / "encoder")
    with pytest.raises(
        SystemExit, match=r"text embeddings .* differ by .* run recipes\.builtin\.distil again"
    ):
        ship.main()


def test_settings_of_neighbours_are_compared_as_the_model_would_answer(
    tmp_path: Path, debug_encoder: BuiltinEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though each sound is decoded once."""
    clips = read_manifest(write_corpus(tmp_path), "validation")
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
        found = list(members.separate(model, state["0.memory"], words, mixture))
        for step, estimate in zip(members.GRID, found, strict=True):
            model.manipulator = Manipulator(Chain(steps=(step,)), 32, state)
            expected = model(mixture[None, None], model.embed(Query(("tone 3",))))[0, 0]
            torch.testing.assert_close(estimate, expected, atol=1e-5, rtol=1e-4)
    rows = members.scored(model, clips, 2)
    assert [row["sounds"] for row in rows] == [step.sounds for step in members.GRID]
    text = members.table(rows, members.GRID[5])
    assert text.count("**2**") == 0
    assert text.count("| **4** | **0.5** | **0.1** |") == 1


def test_cases_to_listen_to(
    tmp_path: Path, debug_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worst, median and best of the free mixtures: what is heard is what was scored."""
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


def test_a_stretch_of_a_sound_has_the_blocks_whose_middle_is_in_it() -> None:
    """Patches begin every 0.48 s and last 0.96 s; blocks last 2.32 s."""
    patches, blocks = np.arange(30), np.arange(6)
    features = TeacherFeatures(
        np.tile(patches[:, None], (1, 1_024)).astype(np.float16),
        np.tile(patches[:, None], (1, 521)).astype(np.float16),
        np.array([0, 10, 30]),
        np.tile(blocks[:, None], (1, 512)).astype(np.float16),
        np.array([0, 2, 6]),
    )
    whole = features.stretch(1)
    assert (features.num_patches(1), whole.embeddings[:, 0].tolist()) == (20, list(range(10, 30)))
    assert whole.effects[:, 0].tolist() == [2, 3, 4, 5]
    second = features.stretch(1, 5, 5)  # from 2.4 to 5.28 s; middles at 1.16, 3.48, 5.80 s, …
    assert second.logits[:, 0].tolist() == [15, 16, 17, 18, 19]
    assert second.effects[:, 0].tolist() == [3]
    assert features.stretch(1, 3, 1).effects[:, 0].tolist() == [2]  # none inside: the nearest
    assert features.crop(0, 100.0, 4.0).embeddings[:, 0].tolist() == [9]
    assert features.crop(0, 0.96, 1.9).embeddings[:, 0].tolist() == [2, 3, 4]


def test_the_next_extractor_answers_as_the_one_before(
    debug_model: QueriedSeparator, debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    """In another space, with negative prompts that it had not; whatever it is to learn later."""
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
    expected = debug_model(mixture, old[:2])
    found = model(mixture, model.condition(new[:2], is_text=False))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    unaware = model.joined(new[:2], new[2:4])
    torch.testing.assert_close(model(mixture, unaware), expected, atol=1e-4, rtol=1e-3)
    asked = model.joined(torch.zeros_like(new[:2]), new[2:4])
    with torch.no_grad():
        model.separator.query[0].weight[:, 32:] = torch.randn(32)  # now negative prompts count
    back = warm_start.with_query_map(config, debug_encoder, model, rotation).eval()
    torch.testing.assert_close(
        back(mixture, back.joined(torch.zeros_like(old[:2]), old[2:4])),
        model(mixture, asked),
        atol=1e-4,
        rtol=1e-3,
    )
    plain = config.model_copy(update={"negative": False})
    with pytest.raises(ValueError, match="takes negative prompts, but the new model does not"):
        warm_start.with_query_map(plain, debug_encoder, model, rotation)
    wide = ModelConfig(separator=TINY_SEPARATOR.model_copy(update={"bottleneck": 24}))
    with pytest.raises(ValueError, match="another size of"):
        warm_start.with_query_map(wide, debug_encoder, debug_model, rotation)


def test_in_the_same_space_the_next_extractor_starts_as_the_one_before(
    tmp_path: Path,
    debug_encoder_folder: Path,
    debug_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of the history, where it has another encoder's name."""
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


def test_words_tell_whether_two_encoders_have_the_same_space(
    debug_encoder: BuiltinEncoder, debug_encoder_folder: Path
) -> None:
    again = BuiltinEncoder.from_pretrained(debug_encoder_folder)
    assert warm_start.text_difference(debug_encoder, again) == 0
    torch.nn.init.normal_(next(again.network.text_head.parameters()), std=0.1)
    assert warm_start.text_difference(debug_encoder, again) > warm_start.SAME_WORDS
    again.dim = 16
    assert warm_start.text_difference(debug_encoder, again) == float("inf")


def test_most_crops_are_plain_and_come_with_what_was_heard(clips: list[Clip]) -> None:
    """The features of a plain crop are those of the place that its audio is from."""
    wanted = round(CROP_SECONDS * SAMPLE_RATE)
    long = 4 * wanted
    position = np.arange(long) / long
    for one in clips:
        soundfile.write(one.path, 0.5 * position, SAMPLE_RATE, subtype="FLOAT")
    patches = 1 + int((long / SAMPLE_RATE - 0.96) / 0.48)
    features = TeacherFeatures(
        np.tile(np.arange(patches)[:, None], (40, 1_024)).astype(np.float16),
        np.zeros((40 * patches, 521), np.float16),
        np.arange(41) * patches,
        np.zeros((40, 512), np.float16),
        np.arange(41),
    )
    weight = sampling_weight(clips)
    drawn = [plain(clips, features, weight, 3, i) for i in range(400)]
    known = [one for one in drawn if one is not None]
    assert 0.6 < len(known) / 400 < 0.8
    starts = set()
    for audio, heard in known:
        assert audio.shape == (wanted,)
        assert 0.29 < np.abs(audio).max() < 0.96
        slope = float(audio[-1] - audio[0]) / (wanted - 1)
        start_s = float(audio[0]) / slope / SAMPLE_RATE
        assert abs(start_s - 0.48 * float(heard.embeddings[0, 0])) < 0.01
        assert heard.embeddings.shape == (3, 1_024)
        starts.add(round(start_s, 2))
    assert len(starts) > 8
    again = plain(clips, features, weight, 3, [one is not None for one in drawn].index(True))
    assert again is not None
    np.testing.assert_array_equal(again[0], known[0][0])
    some = features.of([7, 3])
    assert some.offsets.tolist() == [0, patches, 2 * patches]
    assert some.effect_offsets.tolist() == [0, 1, 2]


def test_a_tower_starts_from_another_but_for_its_last_layer(debug_encoder: BuiltinEncoder) -> None:
    torch.manual_seed(3)
    fresh = BuiltinEncoder(
        BuiltinNetwork(debug_encoder.config), debug_encoder.tokenizer_json, debug_encoder.config
    )
    sound = torch.randn(2, SAMPLE_RATE)
    expected = debug_encoder.network.audio.features(sound)
    assert not torch.allclose(fresh.network.audio.features(sound), expected, atol=1e-3)
    start_from(fresh, debug_encoder)
    torch.testing.assert_close(fresh.network.audio.features(sound), expected)
    assert not torch.allclose(fresh.network.audio(sound), debug_encoder.network.audio(sound))


def test_what_the_teachers_heard_is_kept_for_the_very_same_sounds(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an equal list with the same teachers; a cut file is not left behind."""

    def silent(audio: np.ndarray, rate_hz: int) -> TeacherOutput:
        return TeacherOutput(torch.zeros(2, 1_024), torch.zeros(2, 521), torch.zeros(1, 512))

    monkeypatch.setattr(features_module, "Teachers", lambda effects: silent)
    monkeypatch.setattr(
        features_module, "ProcessPoolExecutor", lambda *_, initializer, initargs: _Here(initializer)
    )
    cache = tmp_path / "deep" / "features.npz"
    first = teacher_features(clips, cache)
    assert first.offsets.tolist() == list(range(0, 82, 2))
    assert first.effect_offsets.tolist() == list(range(41))
    made = cache.stat().st_mtime_ns
    again = teacher_features(clips, cache)
    np.testing.assert_array_equal(again.offsets, first.offsets)
    assert cache.stat().st_mtime_ns == made
    assert len(teacher_features(clips[1:], cache).offsets) == 40
    assert cache.stat().st_mtime_ns != made
    assert [path.name for path in cache.parent.iterdir()] == ["features.npz"]


class _Here:
    """An executor in this process."""

    def __init__(self, initializer: Callable[[bool], None]) -> None:
        initializer(True)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[Path], Any], paths: list[Path], chunksize: int) -> list[Any]:
        return [function(path) for path in paths]


def test_the_card_tells_questions_and_families_apart() -> None:
    interval = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    own = {"mean": interval, "share_improved": interval}
    asked = {
        "text": {"si_sdri_db": own, "level_within_3_db": interval, "suppression_db": interval},
        "absent": {"suppression_db": {"estimate": 21.0, "low": 20.0, "high": 22.0}},
    }
    lines = card.questions_table({"2 sounds": {"questions": asked}}).splitlines()
    assert lines[2].startswith("| 2 sounds | text | 0.50 [0.40, 0.60] | 50 % [40, 60] | 50 %")
    assert lines[3] == "| 2 sounds | absent |  |  |  | 21.00 [20.00, 22.00] |"
    own["median"] = interval
    short = card.short_table(
        {"systems": {kind: {"si_sdri_db": own} for kind in ("text", "audio")}},
        {"3 sounds": {"questions": {"text": {"si_sdri_db": own}}}},
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
