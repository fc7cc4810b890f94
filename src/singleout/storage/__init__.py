"""Files of models and results.

- ``atomic``: files that appear whole or not at all.
- ``journal``: locks and a journal, for killed programs and for several writers in a folder.
- ``lock``: one program at a time in a folder.
- ``disk``: files on the disk: waiting for them, and opening them with care.
- ``tensors``: weights in safetensors files.
- ``checked``: the safetensors format, with bounds and a checksum.
- ``foreign``: checkpoints of other projects, read without executing anything in them.
- ``pickles``: what such a checkpoint may hold, checked before it is unpickled.
- ``hub``: model hubs.
- ``temporary``: folders for files that only one command needs.
- ``folders``: the files below a folder.
- ``addresses``: addresses where a path is meant.
- ``models``: from the name of a model to its files.
"""
