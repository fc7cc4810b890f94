"""Every error that singleout raises on purpose, in one tree.

SingleoutError
├── InputError            something that the user gave cannot be used
│   ├── AudioError        a recording: missing, unreadable, empty, not finite, bad rate
│   │   └── ShardError    a shard: missing, without its tail, or its store does not answer
│   ├── QueryError        a query: empty, too long, or of a kind the model cannot answer
│   ├── ConfigError       a configuration: unknown key, value out of range
│   ├── ManifestError     a manifest: bad line, missing file
│   └── OutputError       an output: cannot be written, or would replace an input
├── ModelError            a model folder: missing, corrupt, of another architecture
├── MissingExtraError     an optional dependency is not installed
├── TrainingError         a run that cannot continue, such as a loss that is not finite
└── Cancelled             the caller stopped an extraction

A message is one line. It names the file or value, what is wrong with it, and the way out. The
command line prints it after ``error:`` and exits with 1.

Example:
    >>> from singleout import Query, SingleoutError
    >>> try:
    ...     Query("")
    ... except SingleoutError as error:
    ...     print(error)
    the query is empty: describe a sound, such as 'a dog barking'
"""


class SingleoutError(Exception):
    """Base of all errors that singleout raises on purpose."""


def shortened(text: object, limit: int = 100) -> str:
    """Text from a file or from another library on one short line, to be part of a message of ours.

    White space becomes single spaces. Characters that do not print, such as those that control a
    terminal, become question marks.

    Args:
        text: what to show; its ``str`` is taken.
        limit: longest result, in characters. Longer text is cut, and ends with ``…``.

    Example:
        >>> shortened("no such\\n  file")
        'no such file'
        >>> shortened("\\x1b[31mred")
        '?[31mred'
        >>> shortened("a" * 1_000, limit=10)
        'aaaaaaaaa…'
    """
    shown = " ".join(str(text)[: 4 * limit].split())
    shown = "".join(character if character.isprintable() else "?" for character in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def one_line(error: Exception) -> str:
    """The message of another library's error on one short line, to be part of a message of ours.

    Example:
        >>> one_line(OSError("no such\\n  file"))
        'no such file'
    """
    return shortened(error, 200) or type(error).__name__


class InputError(SingleoutError, ValueError):
    """Something that the user gave cannot be used."""


class AudioError(InputError):
    """A recording is missing, unreadable, empty, not finite or of an impossible rate."""


class ShardError(AudioError):
    """A shard is missing or lost its tail, or its store does not answer."""


class QueryError(InputError):
    """A query is empty, too long or of a kind the model cannot answer."""


class ConfigError(InputError):
    """A configuration has an unknown key or a value out of range."""


class ManifestError(InputError):
    """A manifest has a bad line or names a missing file."""


class OutputError(InputError):
    """An output cannot be written, or would replace a file that is read."""


class ModelError(SingleoutError):
    """A model folder is missing, corrupt or of another architecture."""


class MissingExtraError(SingleoutError, ImportError):
    """An optional dependency is not installed."""


class TrainingError(SingleoutError):
    """A training run cannot continue."""


class Cancelled(SingleoutError):
    """The caller stopped an extraction before its end."""
