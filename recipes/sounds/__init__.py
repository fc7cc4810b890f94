"""Turns Debian packages into captioned training sounds: `python -m recipes.sounds`."""
