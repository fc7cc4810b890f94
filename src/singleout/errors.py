"""Every error that singleout raises on purpose, in one tree.

SingleoutError
├── InputError            something the user handed over cannot be used
│   ├── AudioError        a recording: missing, unreadable, empty, not finite, bad rate
│   ├── QueryError        a query: empty, too long, or of a kind the model cannot answer
│   ├── ConfigError       a configuration: unknown key, value out of range
│   ├── ManifestError     a manifest: bad line, missing file
│   └── OutputError       an output: cannot be written, or would replace an input
├── ModelError            a model folder: missing, corrupt, of another architecture
├── MissingExtraError     an optional dependency is not installed
├── TrainingError         a run that cannot continue, such as a loss that is not finite
└── Cancelled             the caller stopped an extraction

A message is one line: it names the file or value, what is wrong with it and the way out.
The command line prints it after ``error:`` and exits with 1.
"""


class SingleoutError(Exception):
    """Base of all errors raised on purpose."""


def one_line(error: Exception) -> str:
    """Somebody else's error as part of a message of ours."""
    return " ".join(str(error).split()) or repr(error)


class InputError(SingleoutError, ValueError):
    """Something the user handed over cannot be used."""


class AudioError(InputError):
    """A recording is missing, unreadable, empty, not finite or of an impossible rate."""


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
    """A training run cannot go on."""


class Cancelled(SingleoutError):
    """The caller stopped an extraction before its end."""
