"""The only code that opens media."""

from singleout.audio.resampling import resample

__all__ = ["resample"]
