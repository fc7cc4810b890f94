"""AudioSep's separator: its layers, its checkpoints, and its faster copy for inference."""

from singleout.separators.resunet30.network import ResUNet30, ResUNet30Config

__all__ = ["ResUNet30", "ResUNet30Config"]
