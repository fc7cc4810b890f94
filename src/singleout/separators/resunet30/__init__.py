"""The separator of AudioSep: its layers, its checkpoints, and a faster copy for inference."""

from singleout.separators.resunet30.network import ResUNet30, ResUNet30Config

__all__ = ["ResUNet30", "ResUNet30Config"]
