"""Files of models and results.

- ``atomic``: files that appear whole or not at all.
- ``tensors``: weights in safetensors files.
- ``foreign``: checkpoints of other projects, read without executing anything in them.
- ``hub``: model hubs.
- ``temporary``: folders for files that only one command needs.
- ``folders``: the files below a folder.
- ``addresses``: addresses where a path is meant.
- ``models``: from the name of a model to its files.
"""
