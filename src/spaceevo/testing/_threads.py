"""How many threads torch may use while laws are checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


class OneThread:
    """A suite whose tensors are small: more threads would only wait for each other."""

    @pytest.fixture(autouse=True)
    def one_thread(self) -> Iterator[None]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)
