"""Manifests: one JSON object per line, one sound each.

Keys: ``path`` (relative to the manifest, required), ``seconds`` (required), ``caption``,
``alternatives``, ``class``, ``group``, ``split``. Other keys (licence, origin, …) are ignored. A
sound needs neither a caption nor a class: training uses the sounds themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from stat import S_ISREG
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from singleout.audio import MEDIA_SUFFIXES, SOUND_SUFFIXES
from singleout.data.clips import Clip, Clips
from singleout.data.manifest_rows import read_rows
from singleout.data.sound_files import stated_seconds
from singleout.errors import AudioError, ManifestError, shortened
from singleout.storage.folders import list_files

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""Usual names of the splits, and the names that training expects."""


OnBad = Callable[[Path, str], None]
"""Gets a file that cannot be used, and the reason."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest that was read once, for all that is done with it.

    Attributes:
        path: of the manifest.
        clips: all its clips, in the order of the lines. Their files may be missing.
        lines: int32 [clips], the numbers of their lines.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "manifest.jsonl")
        ...     _ = path.write_text('{"path": "rex.wav", "seconds": 1.5, "group": "rex"}')
        ...     manifest = Manifest.read(path)
        >>> len(manifest.clips), manifest.clips[0].group
        (1, 'rex')
    """

    path: Path
    clips: Clips
    lines: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: the manifest cannot be read or changes meanwhile; a line is not a JSON
                object, lacks a key or has a value of another kind; or two lines of one file differ
                in its class, group or length.
        """
        columns, lines = read_rows(path)
        manifest = cls(path, Clips(columns), lines)
        manifest._check_repeated()
        return manifest

    def existing(
        self, split: str | None = None, may_be_empty: bool = False, on_bad: OnBad | None = None
    ) -> Clips:
        """The clips of a split whose files exist.

        Args:
            split, may_be_empty, on_bad: see ``read_manifest``.

        Raises:
            ManifestError: the split has no clips; or a file does not exist.
        """
        numbers, clips = np.arange(len(self.clips)), self.clips
        if split is not None:
            numbers = self.clips.in_split(split)
            clips = clips.take(numbers)
        is_file = np.fromiter(map(_is_file, clips.paths()), bool, len(clips))
        for index in np.flatnonzero(~is_file).tolist():
            path, line = clips[index].path, self.lines[numbers[index]]
            if on_bad is None:
                missing = shortened(path, 500)
                raise ManifestError(f"{self.path}:{line}: names a missing file: {missing}")
            on_bad(path, f"no such file, named by {self.path}:{line}")
        if not len(clips) and not may_be_empty:
            self._refuse_empty(split)
        return clips.take(np.flatnonzero(is_file))

    def check_splits(self) -> None:
        """Refuse splits that training would misunderstand, see the function of this name."""
        names, numbers = self.clips.names("split")
        is_train, is_misspelt = (np.zeros(len(names), bool) for _ in range(2))
        for number, name in enumerate(names):
            is_train[number] = name == "train"
            is_misspelt[number] = SPLIT_NAMES.get(name.strip().lower(), name) != name
        if (clip := _first(is_misspelt[numbers])) is not None:
            split = self.clips[clip].split
            raise ManifestError(
                f"{self.path}: {self._name(clip)} has the split '{shortened(split)}', which "
                f"training does not know: call it '{SPLIT_NAMES[split.strip().lower()]}'"
            )
        groups, is_trained = self.clips.group_codes, is_train[numbers]
        if (clip := _first(~is_trained & np.isin(groups, groups[is_trained]))) is not None:
            trained = int((is_trained & (groups == groups[clip])).argmax())
            scored = self.clips[clip]
            raise ManifestError(
                f"{self.path}: {self._name(trained)} (train) and {self._name(clip)} "
                f"({shortened(scored.split)}) are of one group, '{shortened(scored.group)}': "
                "training would see sounds that are scored. Give them one split"
            )

    def held_out(self) -> tuple[set[Path], set[str]]:
        """What must not be trained on, see the function of this name."""
        names, numbers = self.clips.names("split")
        is_train = np.array([name == "train" for name in names], bool)
        others = self.clips.take(np.flatnonzero(~is_train[numbers]))
        groups, numbers = others.names("group")
        named = [groups[number] for number in np.unique(numbers[numbers >= 0]).tolist()]
        return {Path(realpath(path)) for path in others.paths()}, set(named)

    def _check_repeated(self) -> None:
        """Refuse two lines of one file that contradict each other."""
        codes = self.clips.path_names().codes()
        first_of_code = np.unique(codes, return_index=True)[1]
        if len(first_of_code) == len(codes):
            return
        first = first_of_code[codes]
        for key, values in (
            ("class", self.clips.label_codes),
            ("group", self.clips.group_codes),
            ("length", self.clips.seconds),
        ):
            if (clip := _first(values != values[first])) is not None:
                raise ManifestError(
                    f"{self.path}:{self.lines[clip]}: gives {self._name(clip)} another {key} than "
                    f"line {self.lines[first[clip]]}: make both lines agree, or keep one of them"
                )

    def _refuse_empty(self, split: str | None) -> NoReturn:
        names, numbers = self.clips.names("split")
        sizes = Counter(dict(enumerate(np.bincount(numbers).tolist())))
        common = [(names[number], size) for number, size in sizes.most_common(10)]
        which = "sounds" if split is None else f"sounds of the split '{split}'"
        others = ", ".join(f"{size:,} of '{shortened(name)}'" for name, size in common)
        message = f"{self.path}: holds no {which}" + (f", but {others}" if others else "")
        raise ManifestError(message)

    def _name(self, clip: int) -> str:
        return shortened(self.clips.path_names()[clip])


def _first(is_chosen: NDArray[np.bool_]) -> int | None:
    """The first chosen clip, if any."""
    return int(is_chosen.argmax()) if is_chosen.any() else None


def read_manifest(
    path: Path,
    split: str | None = None,
    may_be_empty: bool = False,
    on_bad: OnBad | None = None,
) -> Clips:
    """The clips of a manifest, or of one of its splits, in the order of the lines.

    Args:
        path: the manifest.
        split: name of the split; all by default.
        may_be_empty: return no clips instead of an error if there are none.
        on_bad: gets every audio file that does not exist, whose clip is then left out.

    Raises:
        ManifestError: see ``Manifest.read``; the manifest has no clips; or an audio file does not
            exist, unless ``on_bad`` is given.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rex.wav").write_bytes(b"")
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('{"path": "rex.wav", "seconds": 1.5, "caption": "a dog"}')
        ...     [clip.caption for clip in read_manifest(manifest, "train")]
        ['a dog']
    """
    return Manifest.read(path).existing(split, may_be_empty, on_bad)


def check_splits(path: Path) -> None:
    """Refuse a manifest whose splits training would misunderstand.

    Args:
        path: the manifest.

    Raises:
        ManifestError: the manifest cannot be read, or has a bad line; or the name of a split is
            nearly ``train`` or ``validation``; or a group is in ``train`` and in another split.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     _ = manifest.write_text('{"path": "rex.wav", "seconds": 1.5, "split": "val"}')
        ...     try:
        ...         check_splits(manifest)
        ...     except ManifestError as error:
        ...         print(str(error).removeprefix(f"{manifest}: "))
        rex.wav has the split 'val', which training does not know: call it 'validation'
    """
    Manifest.read(path).check_splits()


def held_out(path: Path) -> tuple[set[Path], set[str]]:
    """The files and groups of a manifest that must not be trained on.

    Args:
        path: the manifest.

    Returns:
        Resolved paths and names of groups of all sounds that are not of the split ``train``.

    Raises:
        ManifestError: the manifest cannot be read, or has a bad line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     manifest = Path(folder, "manifest.jsonl")
        ...     row = '{"path": "rex.wav", "seconds": 1.5, "group": "rex", "split": "test"}'
        ...     _ = manifest.write_text(row)
        ...     files, groups = held_out(manifest)
        >>> groups
        {'rex'}
    """
    return Manifest.read(path).held_out()


def _is_file(path: str) -> bool:
    try:
        return S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):  # such as a name that is too long
        return False


def scan_folder(folder: Path, on_bad: OnBad | None = None) -> list[Clip]:
    """Every audio file below ``folder`` as a clip without caption, sorted by path.

    Links are followed, and each file counts once. Hidden files, such as those that macOS leaves on
    other disks, are left out. So are media that only FFmpeg reads (``needing_ffmpeg``).

    Args:
        folder: of the files.
        on_bad: gets every file that cannot be read, which is then left out.

    Raises:
        ManifestError: ``folder`` is not a folder or holds no audio files; or a file cannot be
            read, unless ``on_bad`` is given.

    Example:
        >>> import tempfile, numpy as np, soundfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     soundfile.write(f"{folder}/rain.wav", np.zeros(4_000), 8_000)
        ...     [(clip.label, clip.seconds) for clip in scan_folder(Path(folder))]
        [('rain.wav', 0.5)]
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: not a folder of audio files")
    paths = _files_below(folder, SOUND_SUFFIXES)
    if not paths:
        raise ManifestError(f"{folder}: holds no audio files ({', '.join(SOUND_SUFFIXES)})")
    clips = []
    for path in paths:
        try:
            seconds = stated_seconds(path)
        except AudioError as error:
            if on_bad is None:
                raise ManifestError(str(error)) from None
            on_bad(path, str(error).removeprefix(f"{path}: "))
            continue
        name = path.relative_to(folder).as_posix()
        clips.append(Clip(path, seconds, None, (), name, name, "train", has_class=False))
    return clips


def needing_ffmpeg(folder: Path) -> list[Path]:
    """Media below ``folder`` that training cannot use before FFmpeg has converted them.

    Training reads crops at random positions, so it needs files that libsndfile can read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "film.mp4").touch()
        ...     [path.name for path in needing_ffmpeg(Path(folder))]
        ['film.mp4']
    """
    suffixes = [suffix for suffix in MEDIA_SUFFIXES if suffix not in SOUND_SUFFIXES]
    return _files_below(folder, suffixes)


def _files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return [path for path in list_files([folder]).files if path.suffix.lower() in suffixes]


def share_of(*names: str) -> float:
    """A number in [0, 1) that depends on the names alone, on every machine and in any corpus.

    Example:
        >>> share_of("rex.wav") == share_of("rex.wav")
        True
    """
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def total_seconds(clips: Iterable[Clip]) -> float:
    """The sum of the lengths of clips.

    Example:
        >>> total_seconds([Clip(Path("rex.wav"), 1.5, None, (), "dog", "rex", "train")])
        1.5
    """
    return sum(clip.seconds for clip in clips)
