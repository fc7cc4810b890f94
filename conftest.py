"""What tests and the examples in docstrings share."""

from __future__ import annotations

import os
from collections.abc import Iterator

# The command's help is compared as plain text of one width.
os.environ.update({"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"})

import pytest
import torch

# Two threads would wait for each other longer than the tiny models compute, and MKL's linear
# algebra fails in a process that changes their number (torch 2.13: "Pivots given to lu_solve").
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_cache_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embeddings are kept below a temporary folder, by the commands in subprocesses, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SINGLEOUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
