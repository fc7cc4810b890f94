"""Build the sounds of one package, and the manifests from the packages that are finished."""

import fcntl
import hashlib
import json
import posixpath
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recipes.sounds import manifest, prepare, render, unpack
from recipes.sounds.fetch import Deb, RecipeError, fetch_deb
from recipes.sounds.manifest import CaptionRow, Entry, Record

RECIPE_DIR = Path(__file__).parent
VERSION = 2  # raise when the preparation changes, so that finished packages are made again
SOUNDFONT_PACKAGE = "fluid-soundfont-gm"
SOUNDFONT_PATH = "usr/share/sounds/sf2/FluidR3_GM.sf2"
SOUNDFONT_LICENSE = "MIT"
CAPTIONED_SEGMENTS = 3
UNLABELLED_SEGMENTS = 2
UNLABELLED_FILES_PER_PACKAGE = 150


@dataclass(frozen=True)
class Recipe:
    """The tables of the repository, and the folder of the sounds.

    Attributes:
        output_dir: of sounds, manifests and downloads.
        recipe_dir: of the tables.
    """

    output_dir: Path
    recipe_dir: Path = RECIPE_DIR

    @cached_property
    def captions(self) -> dict[str, list[CaptionRow]]:
        """Caption rows by package."""
        return manifest.read_captions(self.recipe_dir / "captions.csv")

    @cached_property
    def programs(self) -> list[render.Program]:
        """The General MIDI programs."""
        return render.read_programs(self.recipe_dir / "gm_programs.csv")

    @cached_property
    def held_out(self) -> dict[str, str]:
        """Split of each held-out package."""
        return manifest.read_splits(self.recipe_dir / "splits.json")

    @cached_property
    def same_recordings(self) -> dict[str, str]:
        """Name of each group that another group repeats."""
        return manifest.read_same_recordings(self.recipe_dir / "same_recordings.json")

    @cached_property
    def package_facts(self) -> dict[str, dict[str, Any]]:
        """Tier and size of each package."""
        text = (self.recipe_dir / "packages.json").read_text(encoding="utf-8")
        facts: dict[str, dict[str, Any]] = json.loads(text)
        return facts

    def split(self, package: str) -> str:
        """Split of a package."""
        return self.held_out.get(package, "train")

    def packages(self, tier: str, uncaptioned: bool = False) -> list[str]:
        """Packages of a tier, the largest first, because they take the longest.

        Packages of the tier ``uncaptioned`` have no captioned sounds.
        """
        facts = self.package_facts
        tiers = {"core"} if tier == "core" else {"core", "full"}
        if uncaptioned:
            tiers.add("uncaptioned")
        chosen = [name for name in facts if facts[name]["tier"] in tiers]
        return sorted(chosen, key=lambda name: -facts[name]["download_bytes"])

    def fingerprint(self, package: str, unlabelled: bool) -> str:
        """Changes when the rows of a package or the preparation change."""
        if package == SOUNDFONT_PACKAGE:
            return manifest.fingerprint(VERSION, self.programs)
        rows = self.captions.get(package, [])
        return manifest.fingerprint(VERSION, rows, unlabelled)

    def record_path(self, package: str, unlabelled: bool) -> Path:
        """File of the record of a package."""
        return self.output_dir / ("unlabelled" if unlabelled else "packages") / f"{package}.json"

    def has_kind(self, package: str, unlabelled: bool) -> bool:
        """Whether a package has captioned, or unlabelled, sounds."""
        if unlabelled:
            return package != SOUNDFONT_PACKAGE and self.split(package) == "train"
        return package in self.captions or package == SOUNDFONT_PACKAGE

    def is_done(self, package: str, unlabelled: bool) -> bool:
        """Whether a package is finished."""
        path = self.record_path(package, unlabelled)
        return manifest.read_record(path, self.fingerprint(package, unlabelled)) is not None


@dataclass(frozen=True)
class Source:
    """A sound to prepare, with its facts for the manifest."""

    source_path: str
    file: Path
    facts: Entry
    max_segments: int
    bandwidth_hz: int | None = None


def clip_id(package: str, source_path: str, segment: int) -> str:
    """A readable name of a clip, which does not depend on other files of the package."""
    stem = posixpath.splitext(posixpath.basename(source_path))[0]
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40] or "clip"
    digest = hashlib.sha256(f"{package}/{source_path}/{segment}".encode()).hexdigest()
    return f"{slug}-{digest[:10]}"


def add_source(recipe: Recipe, record: Record, source: Source, folder: str) -> None:
    """Prepare a sound, write its clips, and add them or the failure to the record."""
    record.files += 1
    try:
        prepared = prepare.prepare_file(source.file, source.max_segments)
    except prepare.DecodeError:
        record.not_decodable.append(source.source_path)
        return
    record.hashes.append(prepared.audio_hash)
    if prepared.dropped:
        record.dropped[source.source_path] = prepared.dropped
    for clip in prepared.clips:
        name = f"{clip_id(record.package, source.source_path, clip.segment)}.wav"
        path = f"{folder}/{record.package}/{name}"
        prepare.write_clip(recipe.output_dir / path, clip.samples)
        record.entries.append(
            {
                "path": path,
                **source.facts,
                "split": None,  # set by read_records
                "seconds": round(clip.seconds, 4),
                "sample_rate": prepare.SAMPLE_RATE_HZ,
                "bandwidth_hz": source.bandwidth_hz or clip.bandwidth_hz,
                "gain_db": clip.gain_db,
                "origin": {
                    "package": record.package,
                    "version": record.version,
                    "source_path": source.source_path,
                    "segment": clip.segment,
                },
                "audio_hash": prepared.audio_hash,
            }
        )


def add_captioned(recipe: Recipe, record: Record, tree: unpack.AudioTree) -> None:
    """Add the sounds of all rows that captions.csv has for the package."""
    rows = recipe.captions[record.package]
    matches = unpack.match_paths([row.source_path for row in rows], set(tree.files))
    record.broken_archives = tree.broken_archives
    for row in rows:
        if (path := matches[row.source_path]) is None:
            record.not_found.append(row.source_path)
            continue
        facts: Entry = {
            "caption": row.caption,
            "alternatives": list(row.alternatives),
            "class": row.sound_class,
            "group": row.group,
            "license": row.license,
            "redistributable": row.redistributable,
            "loopable": row.loopable,
        }
        source = Source(
            row.source_path, tree.files[path], facts, CAPTIONED_SEGMENTS, row.bandwidth_hz
        )
        add_source(recipe, record, source, "audio")


def add_unlabelled(recipe: Recipe, record: Record, tree: unpack.AudioTree) -> None:
    """Add the other audio of the package, also music; a fixed choice of it if there is much."""
    rows = recipe.captions.get(record.package, [])
    captioned = unpack.match_paths([row.source_path for row in rows], set(tree.files))
    others = set(tree.files) - set(captioned.values())
    chosen = sorted(others, key=lambda path: hashlib.sha256(path.encode()).digest())
    for path in sorted(chosen[:UNLABELLED_FILES_PER_PACKAGE]):
        facts: Entry = {
            "caption": None,
            "alternatives": [],
            "class": None,
            "group": f"{record.package}/{path}",
            "license": None,
            "redistributable": False,
            "loopable": False,
        }
        source = Source(path, tree.files[path], facts, UNLABELLED_SEGMENTS)
        add_source(recipe, record, source, "unlabelled_audio")


def add_renders(recipe: Recipe, record: Record, soundfont: Path, scratch_dir: Path) -> None:
    """Add rendered phrases of the General MIDI programs."""
    for program, phrase, file in render.render_all(recipe.programs, soundfont, scratch_dir):
        facts: Entry = {
            "caption": program.caption,
            "alternatives": list(program.alternatives),
            "class": program.sound_class,
            "group": f"gm/{program.name}",
            "license": SOUNDFONT_LICENSE,
            "redistributable": True,
            "loopable": False,
        }
        source = Source(f"{program.name}/{phrase}", file, facts, max_segments=1)
        add_source(recipe, record, source, "audio")


def build_package(recipe: Recipe, package: str, unlabelled: bool = False) -> None:
    """Make the missing sounds of a package: captioned ones, and optionally unlabelled ones.

    Raises:
        RecipeError: the whole package cannot be used.
    """
    kinds = [False, True] if unlabelled else [False]
    kinds = [
        kind
        for kind in kinds
        if recipe.has_kind(package, kind) and not recipe.is_done(package, kind)
    ]
    if not kinds:
        return
    deb = fetch_deb(package, recipe.output_dir / "debs")
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=recipe.output_dir) as scratch:
        scratch_dir = Path(scratch)
        if package == SOUNDFONT_PACKAGE:
            record = _new_record(recipe, deb, unlabelled=False)
            soundfont = scratch_dir / "soundfont.sf2"
            unpack.unpack_file(deb.path, SOUNDFONT_PATH, soundfont)
            add_renders(recipe, record, soundfont, scratch_dir)
            manifest.write_record(recipe.record_path(package, False), record)
            return
        tree = unpack.unpack_audio(deb.path, scratch_dir)
        for kind in kinds:
            record = _new_record(recipe, deb, kind)
            add: Callable[[Recipe, Record, unpack.AudioTree], None]
            add = add_unlabelled if kind else add_captioned
            add(recipe, record, tree)
            if not kind and not record.entries:
                raise RecipeError(f"{package}: {deb.path.name} holds none of its captioned sounds")
            manifest.write_record(recipe.record_path(package, kind), record)


def try_package(recipe: Recipe, package: str, unlabelled: bool) -> str | None:
    """Build a package; returns the error message if that failed."""
    try:
        build_package(recipe, package, unlabelled)
    except (RecipeError, OSError) as error:
        message = " ".join(str(error).split())
        return message if package in message else f"{package}: {message}"
    return None


def build_all(
    recipe: Recipe, packages: list[str], unlabelled: bool, jobs: int
) -> Iterator[tuple[str, str | None]]:
    """Build packages in parallel; yields each package at its end, with its error if it failed."""
    if jobs == 1:
        yield from ((package, try_package(recipe, package, unlabelled)) for package in packages)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(try_package, recipe, package, unlabelled): package for package in packages
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _new_record(recipe: Recipe, deb: Deb, unlabelled: bool) -> Record:
    return Record(deb.package, deb.version, recipe.fingerprint(deb.package, unlabelled))


def read_records(recipe: Recipe, unlabelled: bool) -> list[Record]:
    """Records of all finished packages, of this run and of earlier ones."""
    records = []
    for package in sorted({*recipe.captions, *recipe.package_facts}):
        path = recipe.record_path(package, unlabelled)
        record = manifest.read_record(path, recipe.fingerprint(package, unlabelled))
        if record and recipe.has_kind(package, unlabelled):
            for entry in record.entries:
                entry["split"] = recipe.split(package)
                entry["group"] = recipe.same_recordings.get(entry["group"], entry["group"])
            records.append(record)
    return records


def write_manifests(recipe: Recipe, failures: dict[str, str], unlabelled: bool) -> dict[str, Any]:
    """Write the manifests and ``report.json``.

    ``manifest.jsonl`` has all captioned sounds. ``permissive.jsonl`` has the training sounds whose
    licences allow to pass on a model of them without conditions (``redistributable``), and all
    held-out sounds. ``unlabelled.jsonl`` is written only with ``unlabelled``.

    Returns:
        The report.
    """
    records = read_records(recipe, unlabelled=False)
    entries, leaking = manifest.settle(entry for record in records for entry in record.entries)
    manifest.write_manifest(recipe.output_dir / "manifest.jsonl", entries)
    permissive = [one for one in entries if one["redistributable"] or one["split"] != "train"]
    manifest.write_manifest(recipe.output_dir / "permissive.jsonl", permissive)
    report = {"failures": failures, "captioned": _report(records, entries, leaking)}

    if unlabelled:
        taken = {audio_hash for record in records for audio_hash in record.hashes}
        taken |= {entry["group"] for record in records for entry in record.entries}
        others = read_records(recipe, unlabelled=True)
        entries, leaking = manifest.settle(
            (entry for record in others for entry in record.entries), taken
        )
        manifest.write_manifest(recipe.output_dir / "unlabelled.jsonl", entries)
        report["unlabelled"] = _report(others, entries, leaking)
    manifest.write_atomically(
        recipe.output_dir / "report.json", json.dumps(report, indent=1) + "\n"
    )
    return report


def _report(records: list[Record], entries: list[Entry], leaking: Counter[str]) -> dict[str, Any]:
    listed = {
        field: {record.package: value for record in records if (value := getattr(record, field))}
        for field in ("not_found", "not_decodable", "dropped", "broken_archives")
    }
    return {
        **manifest.summarise(entries),
        "packages": len(records),
        "source_files": sum(record.files for record in records),
        "dropped_clips": dict(leaking),
        "counts": {field: sum(map(len, by.values())) for field, by in listed.items()},
        **listed,
    }


@contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """Lock the folder against other runs, and delete temporary files of killed runs.

    Raises:
        RecipeError: another run has locked it.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"{output_dir}: another run works in this folder: wait for it, or end it"
            ) from None
        for path in [*output_dir.glob(".scratch-*"), *(output_dir / "debs").glob(".partial-*")]:
            shutil.rmtree(path, ignore_errors=True)
        for path in output_dir.rglob(".*.partial"):
            path.unlink(missing_ok=True)
        yield
