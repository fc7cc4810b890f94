"""What counts as silence.

Five questions have five limits. Levels are relative to full scale 1 unless a name tells otherwise.
Small numbers that only guard a division or a logarithm stay where they are used.
"""

SILENT_RMS = 1e-5
"""RMS, -100 dB: about the rounding noise of 16-bit samples. A query sound or a window of a target
that is quieter resembles nothing, so that it has no similarity to any query."""

MIN_AMPLIFIED_RMS = 1e-6
"""RMS, -120 dB. A quieter sound consists of rounding errors and is never amplified."""

SILENT_ENERGY = 1e-7
"""Sum of squares of a training target [samples]: -115 dB for one second at 32 kHz. A quieter target
counts as absent. Its loss is then the level of the estimate below the mixture."""

SILENT_WINDOW_RATIO = 1e-3
"""Power of a window over that of the loudest window of the same target, -30 dB. A quieter window is
taken to hold no sound, and its similarity is not reported."""

SILENT_BELOW_MIXTURE_DB = 40.0
"""An estimate more than this many dB below its mixture is no answer to a query. Without this limit
silence would earn an SI-SDR of about 0 dB (``evaluate.metrics.score``)."""
