"""The only code that opens media: reading, resampling, writing."""

from singleout.audio.reading import read_audio
from singleout.audio.resampling import resample
from singleout.audio.writing import replacing, write_wav

__all__ = ["read_audio", "replacing", "resample", "write_wav"]
