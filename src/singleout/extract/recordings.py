"""Which recordings a user means by files, folders, manifests, patterns and file objects."""

from __future__ import annotations

import fnmatch
import glob
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from singleout.audio import is_media, media_name
from singleout.audio.notes import LOGGER
from singleout.data.manifest import read_manifest
from singleout.errors import AudioError
from singleout.extract.stores import list_matches, list_store, local_copy
from singleout.storage.addresses import address_of, shown
from singleout.storage.folders import FolderListing, list_files
from singleout.storage.locations import store_of

PART_ENDS = (".target", ".residual")
"""Ends of the names, before the suffix, of files that an extraction wrote."""
MAX_SHOWN = 8
"""Kinds of files, and problems of a folder, that are named one by one."""
MAX_SUFFIX_CHARACTERS = 12
MANIFEST = ".jsonl"
"""Suffix of a manifest: each of its rows is a recording."""
PLURALS = {
    "earlier result": "earlier results",
    "second name": "second names",
    "pipe or device": "pipes or devices",
}


@dataclass(frozen=True)
class Source:
    """A recording, and the folder below the output folder that its files go to.

    Attributes:
        path: of the recording; its name in messages, where it is a file object.
        below: folder of its files, relative to the output folder.
        file: the recording, where it is a file object and no path.

    Example:
        >>> Source(Path("in/a/street.wav"), Path("a")).below.name
        'a'
    """

    path: Path
    below: Path = Path()
    file: BinaryIO | None = None


def find_recordings(places: Sequence[str | Path | BinaryIO]) -> list[Source]:
    """Find recordings by files, folders, manifests and patterns such as ``*.wav``.

    A file is taken as it is. Folders and patterns give the files with the suffix of a media file,
    in the order of their names, without hidden files and without the results of an extraction.
    A file in a folder keeps its place below the folder, and so does one in a manifest. Files,
    folders and manifests may be in a store, such as ``s3://bucket/sounds``. What is left out is
    logged: as a warning where it could not be read, otherwise as an information.

    Args:
        places: files, folders, manifests, patterns and binary file objects.

    Returns:
        Recordings, each once.

    Raises:
        AudioError: a folder or a pattern has no recordings; or a name is empty.
        ManifestError: a manifest cannot be read, or has no rows.
        InputError: a store cannot be read.

    Example:
        >>> find_recordings(["street.wav"])[0].path.name
        'street.wav'
    """
    sources: dict[object, Source] = {}
    for place in places:
        if not isinstance(place, str | Path):
            sources.setdefault(id(place), Source(Path(media_name(place)), file=place))
            continue
        for source in _at(place):
            sources.setdefault(source.path.absolute(), source)
    return list(sources.values())


def _at(place: str | Path) -> list[Source]:
    if str(place) == "":
        # Such as of a variable that is not set; as a path it would be the current folder.
        raise AudioError("the name of a recording is empty: give a file, a folder or a pattern")
    path, without = Path(place), "it is empty"
    store = store_of(path)
    is_web_page = store is None and address_of(path) is not None
    if path.suffix.lower() == MANIFEST and not is_web_page:
        return _of_manifest(path)
    if is_kind(path, Path.is_dir):
        listing = list_files([path])
        sources = [Source(each, each.relative_to(path).parent) for each in _media(listing.files)]
    elif store is not None and glob.has_magic(str(path)):
        listing, without = list_matches(store), "nothing has such a name"
        sources = [Source(each) for each in _media(listing.files)]
    elif store is not None and not is_media(path):
        listing = list_store(store)
        if not listing.files and not listing.num_hidden:  # a file, or nothing
            return [Source(path)]
        sources = [Source(each, each.relative_to(path).parent) for each in _media(listing.files)]
    elif not is_kind(path, Path.exists) and not is_web_page and glob.has_magic(str(path)):
        listing, without = _matches(str(path)), "nothing has such a name"
        sources = [Source(each) for each in _media(listing.files)]
    else:
        return [Source(path)]
    left_out = _left_out(listing)
    if not sources:
        reason = ", ".join([*listing.problems[:1], *_counted(left_out)]) or without
        raise AudioError(f"{shown(place)}: no recordings there: {reason}")
    for problem in listing.problems[:MAX_SHOWN]:
        LOGGER.warning("%s", problem)
    if (more := len(listing.problems) - MAX_SHOWN) > 0:
        LOGGER.warning("%s: %d more links or folders cannot be read", place, more)
    if total := sum(left_out.values()):
        files = "file is" if total == 1 else "files are"
        kinds = ", ".join(_counted(left_out))
        LOGGER.info("%s: %d other %s left out: %s", shown(place), total, files, kinds)
    return sources


def _of_manifest(manifest: Path) -> list[Source]:
    """The recordings of a manifest. Reading them tells which ones are missing."""
    with local_copy(manifest) as copy:
        missing: list[Path] = []
        clips = read_manifest(copy, on_bad=lambda path, reason: missing.append(path))
        paths = [*(clip.path for clip in clips), *missing]
        start = copy.parent
        rows = [p.relative_to(start) if p.is_relative_to(start) else p for p in paths]
    return [_of_row(manifest.parent, row) for row in rows]


def _of_row(folder: Path, row: Path) -> Source:
    """The recording of a row, which names a file in the folder, a whole path or an address."""
    is_address = address_of(row) is not None
    start = 1 if is_address or row.is_absolute() else 0
    below = Path(*(part for part in row.parent.parts[start:] if part != ".."))
    return Source(row if is_address else folder / row, below)


def _matches(pattern: str) -> FolderListing:
    """The files that match a pattern."""
    parts = Path(pattern).parts
    if "**" in parts:  # glob would follow a link in a circle
        num_plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:num_plain])
        below = list_files([base])
        names = parts[num_plain:]
        files = [path for path in below.files if _fits(path.relative_to(base).parts, names)]
        return FolderListing(files, below.problems)
    return list_files(map(Path, glob.iglob(pattern)), in_folders=False)  # noqa: PTH207


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern. ``**`` is any number of folders."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[start:], patterns[1:]) for start in range(len(names) + 1))
    is_first = bool(names) and fnmatch.fnmatch(names[0], patterns[0])
    return is_first and _fits(names[1:], patterns[1:])


def _media(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if is_media(path) and not path.stem.endswith(PART_ENDS)]


def _left_out(listing: FolderListing) -> Counter[str]:
    """How many files of each kind are no recordings."""
    kinds = Counter(
        "earlier result" if is_media(path) else path.suffix.lower() or "without a suffix"
        for path in listing.files
        if not is_media(path) or path.stem.endswith(PART_ENDS)
    )
    kinds["hidden"] = listing.num_hidden
    kinds["second name"] = listing.num_repeated
    kinds["pipe or device"] = listing.num_special
    return +kinds


def _counted(kinds: Counter[str]) -> Iterator[str]:
    """Such as ``9 .jpg``, ``3 .txt``, ``2 hidden``."""
    shown = kinds.most_common(MAX_SHOWN)
    for kind, count in shown:
        if kind.startswith(".") and len(kind) > MAX_SUFFIX_CHARACTERS:
            kind = f"{kind[: MAX_SUFFIX_CHARACTERS - 1]}…"
        yield f"{count} {kind if count == 1 else PLURALS.get(kind, kind)}"
    if len(kinds) > MAX_SHOWN:
        yield f"{kinds.total() - sum(count for _, count in shown)} of other kinds"


def is_kind(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Whether a path is of a kind; False for a name that no file can have.

    Example:
        >>> is_kind(Path("n" * 1_000), Path.is_dir)
        False
    """
    try:
        return kind(path)
    except (OSError, ValueError):
        return False
