"""All readers under test, by their names on the command line."""

from __future__ import annotations

from fuzz.folders import Encoder, Model
from fuzz.recordings import Ffmpeg, Sndfile
from fuzz.shards import Corpus, Tar
from fuzz.target import Target
from fuzz.texts import Config, Manifest
from fuzz.weights import Checkpoint, Safetensors

TARGETS: dict[str, type[Target]] = {
    target.name: target
    for target in (
        Sndfile,
        Ffmpeg,
        Manifest,
        Config,
        Safetensors,
        Checkpoint,
        Encoder,
        Model,
        Tar,
        Corpus,
    )
}
"""The classes of the readers."""
