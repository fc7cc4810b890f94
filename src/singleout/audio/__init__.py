"""Audio files and arrays: reading, resampling and writing. Only this package opens media.

Waveforms are [channels, samples] in floating point with full scale 1. Rates are in Hz.
"""

from singleout.audio.arrays import MAX_CHANNELS, checked_array
from singleout.audio.description.places import output_notes
from singleout.audio.formats import is_media
from singleout.audio.info import (
    MEDIA_SUFFIXES,
    SOUND_SUFFIXES,
    AudioInfo,
    Note,
    OutputFormat,
    OutputKind,
    output_kind,
    sndfile_name,
)
from singleout.audio.infrasound import InfrasoundFilter
from singleout.audio.notes import log_notes, missing_seconds
from singleout.audio.pipes import media_name, open_media
from singleout.audio.reading import AudioReader, open_audio, read_audio
from singleout.audio.resampling import ResampleStream, resample
from singleout.audio.writing import AudioWriter, new_audio, quantised, write_wav

__all__ = [
    "MAX_CHANNELS",
    "MEDIA_SUFFIXES",
    "SOUND_SUFFIXES",
    "AudioInfo",
    "AudioReader",
    "AudioWriter",
    "InfrasoundFilter",
    "Note",
    "OutputFormat",
    "OutputKind",
    "ResampleStream",
    "checked_array",
    "is_media",
    "log_notes",
    "media_name",
    "missing_seconds",
    "new_audio",
    "open_audio",
    "open_media",
    "output_kind",
    "output_notes",
    "quantised",
    "read_audio",
    "resample",
    "sndfile_name",
    "write_wav",
]
