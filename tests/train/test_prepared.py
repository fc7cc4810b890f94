"""Training from prepared corpora."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from singleout.config import validated
from singleout.data.dataset import MixtureDataset, QueryAudioConfig
from singleout.data.embeddings import EmbeddingTable, crop_offsets
from singleout.data.loader import MixtureLoader
from singleout.data.manifest import scan_folder
from singleout.encoders import BuiltinEncoder
from singleout.errors import AudioError, InputError, ManifestError, ModelError
from singleout.prepare import PrepareConfig, prepare
from singleout.shards import (
    Crops,
    PreparedClips,
    Sample,
    ShardWriter,
    check_corpus,
    open_corpus,
    write_corpus,
)
from singleout.storage.locations import Location
from singleout.train.config import TrainConfig, UncaptionedConfig, ValidationConfig
from singleout.train.corpus import read_corpus, split_clips, training_dataset, validation_dataset
from singleout.train.prepared import JoinedClips, prepared_uncaptioned
from singleout.train.run import train
from tests.shards.corpora import RATE, descriptions, noise, samples, write_shards
from tests.storage import test_locations
from tests.train.runs import MIXTURES, SHORT, assert_same, tensors_below

NUMBER = 12
s3_server = test_locations.s3_server


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINGLEOUT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sounds of 16 bits as files; the manifest has the splits in turns."""
    folder = tmp_path_factory.mktemp("files")
    rows = descriptions(NUMBER)
    for sample in samples(rows):
        (folder / f"{sample.key}.wav").write_bytes(sample.audio)
    lines = [json.dumps({**row, "path": f"{i:09d}.wav"}) + "\n" for i, row in enumerate(rows)]
    (folder / "manifest.jsonl").write_text("".join(lines))
    return folder / "manifest.jsonl"


def write(out: Location, kind: str, encoder: BuiltinEncoder | None = None) -> str:
    """The same sounds as shards, with embeddings if there is an encoder."""
    made, crops = samples(descriptions(NUMBER), "wav" if kind == "wav" else "flac"), None
    if encoder is not None:
        crops = Crops(encoder.fingerprint, MIXTURES.segment_seconds, MIXTURES.crop_hop_seconds)
        made = [_embedded(sample, number, encoder) for number, sample in enumerate(made)]
    write_corpus(out, write_shards(out, made), {}, crops)
    return str(out)


def _embedded(sample: Sample, number: int, encoder: BuiltinEncoder) -> Sample:
    audio = noise(number, sample.description["seconds"]) / np.float32(32_768)
    hop, length = (round(RATE * s) for s in (MIXTURES.crop_hop_seconds, MIXTURES.segment_seconds))
    count = 1 + max(0, int(np.ceil((len(audio) - length) / hop - 1e-9)))
    crops = [audio[i * hop : i * hop + length].astype(np.float32) for i in range(count)]
    rows = torch.cat([encoder.embed_audio(crop, RATE) for crop in crops])
    return Sample(
        sample.key, sample.audio, sample.suffix, RATE, len(audio), sample.description,
        rows.numpy().astype(np.float16),
    )  # fmt: skip


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prepared corpora of the sounds of ``manifest``."""
    folder = tmp_path_factory.mktemp("prepared")
    return {
        "wav": write(Location(folder / "wav"), "wav"),
        "flac": write(Location(folder / "flac"), "flac"),
        "memory": write(Location(f"memory://{folder.name}"), "flac"),
    }


def assert_same_examples(dataset: MixtureDataset, other: MixtureDataset, count: int) -> None:
    for number in range(count):
        example, another = dataset[number], other[number]
        for name, value in example.items():
            assert torch.equal(value, another[name]), name  # type: ignore[arg-type, literal-required]


@pytest.mark.parametrize("kind", ["wav", "flac", "memory"])
def test_shards_give_the_mixtures_of_their_manifest_to_the_bit(
    kind: str,
    manifest: Path,
    shards: dict[str, str],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    changes = {
        "audio": None,
        "query_audio": QueryAudioConfig(source="other_crop"),
        "p_text": 0.5,
        "validation": ValidationConfig(num_mixtures=8, mixtures=SHORT),
    }
    from_files = configure(tmp_path, manifest=manifest, **changes)
    from_shards = configure(tmp_path, shards=shards[kind], **changes)
    clips, others = split_clips(from_files), split_clips(from_shards)
    for part, other in zip(clips, others, strict=True):
        assert isinstance(other, PreparedClips)
        assert [c.captions for c in part] == [c.captions for c in other]
        assert [c.seconds for c in part] == [c.seconds for c in other]
    assert [len(part) for part in clips] == [10, 2]
    for make, number in ((training_dataset, 0), (validation_dataset, 1)):
        dataset = make(from_files, clips[number], debug_encoder)
        another = make(from_shards, others[number], debug_encoder)
        assert_same_examples(dataset, another, 8)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_preparation_gives_the_mixtures_of_its_manifest_to_the_bit(
    kind: str,
    manifest: Path,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    prepare(manifest, tmp_path / "corpus", validated(PrepareConfig, {"format": kind}, "test"))
    assert check_corpus(tmp_path / "corpus") == []
    from_files = configure(tmp_path, audio=None, manifest=manifest)
    from_shards = configure(tmp_path, audio=None, shards=str(tmp_path / "corpus"))
    dataset, another = (
        training_dataset(config, split_clips(config)[0], debug_encoder)
        for config in (from_files, from_shards)
    )
    for number in range(8):
        for name in ("mixture", "targets", "clips", "index"):
            assert torch.equal(dataset[number][name], another[number][name])


def test_a_share_is_the_same_of_flac_and_wav(shards: dict[str, str]) -> None:
    names = [
        {Path(clip.path).stem for clip in prepared_uncaptioned(shards[kind], 0.5, frozenset())}
        for kind in ("wav", "flac")
    ]
    assert names[0] == names[1]
    assert 0 < len(names[0]) < 10


def test_a_run_on_shards_ends_with_the_weights_of_a_run_on_files(
    manifest: Path, shards: dict[str, str], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(configure(tmp_path / "files", audio=None, manifest=manifest))
    train(configure(tmp_path / "shards", audio=None, shards=shards["flac"], num_workers=1))
    assert_same(tensors_below(tmp_path / "files"), tensors_below(tmp_path / "shards"))


def test_a_run_goes_on_after_its_corpus_has_moved(
    shards: dict[str, str], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    train(configure(tmp_path / "run", audio=None, shards=shards["wav"]))
    weights = tensors_below(tmp_path / "run")
    moved = shutil.copytree(shards["wav"], tmp_path / "moved")
    train(configure(tmp_path / "run", audio=None, shards=str(moved)))
    assert_same(tensors_below(tmp_path / "run"), weights)
    with pytest.raises(ModelError, match=r"other sounds|another"):
        train(configure(tmp_path / "run", audio=None, shards=shards["flac"]))


def test_embeddings_of_the_corpus_are_used_where_they_fit(
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = write(Location(tmp_path / "corpus"), "wav", debug_encoder)
    scored = ValidationConfig(num_mixtures=2, mixtures=SHORT)
    config = configure(tmp_path, audio=None, shards=place, validation=scored)
    training, validation = split_clips(config)
    computed = training_dataset(
        configure(tmp_path, audio=None, shards=place), list(training), debug_encoder
    ).table

    def refuse(*_: object) -> EmbeddingTable:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("singleout.train.prepared.embeddings_of", refuse)
        table = training_dataset(config, training, debug_encoder).table
        validation_dataset(config, validation, debug_encoder)
        other = MIXTURES.model_copy(update={"crop_hop_seconds": 0.2})
        with pytest.raises(AssertionError):
            training_dataset(config.model_copy(update={"mixtures": other}), training, debug_encoder)
    assert (table.offsets == computed.offsets).all()
    assert table.embeddings.dtype == torch.float16
    torch.testing.assert_close(table.rows().float(), computed.embeddings, atol=2e-3, rtol=0)


def test_another_process_of_a_run_uses_the_embeddings_of_the_corpus(
    sounds: Path,
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first process sends its clips to the others. Embedding them again would take hours."""
    place = write(Location(tmp_path / "corpus"), "wav", debug_encoder)
    more = UncaptionedConfig(audio=sounds)
    for uncaptioned in (None, more):
        config = configure(tmp_path, audio=None, shards=place, uncaptioned=uncaptioned)
        corpus = read_corpus(config)
        received = pickle.loads(pickle.dumps(corpus))
        assert received.digest == corpus.digest
        expected = training_dataset(config, corpus.training, debug_encoder).table
        with monkeypatch.context() as patch:  # crops of ``sounds`` are in the cache
            patch.setattr(BuiltinEncoder, "embed_audio", None)
            table = training_dataset(config, received.training, debug_encoder).table
        assert torch.equal(table.rows(), expected.rows())
    clips = prepared_uncaptioned(place, 1.0, frozenset())
    received_clips = pickle.loads(pickle.dumps(clips))
    assert received_clips.digest() == clips.digest()
    assert [*received_clips] == [*clips]


def test_embeddings_of_other_crops_than_the_index_says_are_refused(
    configure: Callable[..., TrainConfig], debug_encoder: BuiltinEncoder, tmp_path: Path
) -> None:
    out = Location(tmp_path / "corpus")
    made = samples(descriptions(NUMBER), "wav", crops=3)
    crops = Crops(debug_encoder.fingerprint, MIXTURES.segment_seconds, MIXTURES.crop_hop_seconds)
    write_corpus(out, write_shards(out, made), {}, crops)
    config = configure(tmp_path, audio=None, shards=str(out))
    with pytest.raises(ModelError, match="other crops than its sounds have"):
        training_dataset(config, split_clips(config)[0], debug_encoder)


def test_the_digest_is_that_of_the_index(
    shards: dict[str, str], configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = configure(tmp_path, audio=None, shards=shards["wav"])
    digest = read_corpus(config).digest
    moved = shutil.copytree(shards["wav"], tmp_path / "moved")
    assert read_corpus(configure(tmp_path, audio=None, shards=str(moved))).digest == digest
    rows = descriptions(NUMBER)
    rows[3]["caption"] = "another"
    out = Location(tmp_path / "other")
    write_corpus(out, write_shards(out, samples(rows)), {})
    assert read_corpus(configure(tmp_path, audio=None, shards=str(out))).digest != digest


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_more_sounds_come_from_shards_too(
    share: float,
    manifest: Path,
    sounds: Path,
    shards: dict[str, str],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    more = write(Location(tmp_path / "more"), "wav", debug_encoder)
    uncaptioned = UncaptionedConfig(shards=more, share=share)
    corpus = read_corpus(configure(tmp_path, uncaptioned=uncaptioned))
    assert isinstance(corpus.training, JoinedClips)
    first = len(scan_folder(sounds))
    assert corpus.training[first].captions == ()
    count = 10 if share == 1 else len(corpus.training) - first
    assert 0 < count <= 10
    assert len(corpus.training) == first + count
    config = configure(tmp_path, uncaptioned=uncaptioned)
    dataset = training_dataset(config, corpus.training, debug_encoder)
    assert len(dataset.table.offsets) == first + count + 1
    assert (dataset.table.offsets == crop_offsets(corpus.training, MIXTURES)).all()
    dataset[0]
    # Of one corpus, nothing is left: all sounds train, or are held out.
    same = configure(tmp_path, audio=None, shards=more, uncaptioned=UncaptionedConfig(shards=more))
    assert len(read_corpus(same).training) == 10
    # Groups that are held out are left out.
    held = configure(tmp_path, audio=None, manifest=manifest, uncaptioned=uncaptioned)
    groups = {clip.group for clip in read_corpus(held).validation}
    assert not groups & {clip.group for clip in read_corpus(held).training}
    mixed = configure(
        tmp_path, audio=None, shards=more, uncaptioned=UncaptionedConfig(audio=sounds)
    )
    assert len(read_corpus(mixed).training) == 10 + first


def test_a_corpus_without_training_sounds_is_refused(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    rows = [{**row, "split": "test"} for row in descriptions(3)]
    out = Location(tmp_path / "corpus")
    write_corpus(out, write_shards(out, samples(rows)), {})
    with pytest.raises(ManifestError, match="no sounds of the split 'train', but 3 others"):
        split_clips(configure(tmp_path, audio=None, shards=str(out)))
    with pytest.raises(InputError, match="holds no prepared corpus"):
        split_clips(configure(tmp_path, audio=None, shards=str(tmp_path / "missing")))


def test_a_shard_that_changes_during_training_is_named(
    shards: dict[str, str],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    place = shutil.copytree(shards["wav"], tmp_path / "corpus")
    config = configure(tmp_path, audio=None, shards=str(place))
    dataset = training_dataset(config, split_clips(config)[0], debug_encoder)
    dataset[0]
    for shard in (place / "shards").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(AudioError, match=r"\.tar: was changed or removed during the training"):
        dataset[1]


def test_the_writer_of_one_sample_is_enough(tmp_path: Path) -> None:
    out = Location(tmp_path)
    (sample,) = samples(descriptions(1))
    with ShardWriter(out / "shards", "0") as shard:
        shard.add(sample)
    write_corpus(out, ["0"], {})
    assert open_corpus(tmp_path).clips[0].caption == "sound number 0"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_read_crops_from_a_store(
    num_workers: int,
    s3_server: str,
    shards: dict[str, str],
    configure: Callable[..., TrainConfig],
    debug_encoder: BuiltinEncoder,
    tmp_path: Path,
) -> None:
    place = f"{s3_server}/training"
    write(Location(place), "flac")
    batches = []
    for corpus, workers in ((shards["wav"], 0), (place, num_workers)):
        config = configure(tmp_path, audio=None, shards=corpus)
        dataset = training_dataset(config, split_clips(config)[0], debug_encoder)
        batches.append(list(MixtureLoader(dataset, config.batch_size, num_workers=workers)))
    for batch, other in zip(*batches, strict=True):
        assert torch.equal(batch["mixture"], other["mixture"])
        assert torch.equal(batch["audio_embedding"], other["audio_embedding"])
