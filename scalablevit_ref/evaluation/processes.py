"""Several processes that share the images: `torchrun … -m scalablevit_ref evaluate …`, on one machine or more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes
    ----------
    rank, count
        Its number, and how many there are.
    local_rank
        Its number on this machine, which is that of its GPU.

    Examples
    --------
    >>> Processes(rank=1, count=4).share(list(range(10))), Processes().all("counts")
    ([1, 5, 9], ['counts'])
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    def share(self, numbers: list[int]) -> list[int]:
        """This process's part of the images: every one is in exactly one part, and no part is longer by more than one."""
        return numbers[self.rank :: self.count]

    def all(self, value: Any) -> list[Any]:
        """The values of all processes, in their order. Waits for them."""
        if self.count == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found


@contextmanager
def processes() -> Iterator[Processes]:
    """As torchrun says in the environment; one process where it does not. Counts travel by gloo, also beside GPUs.

    Raises ModuleNotFoundError where there are several and PyTorch is not installed.

    Examples
    --------
    >>> with processes() as here:
    ...     here.share([0, 1, 2]), here.all("counts")
    ([0, 1, 2], ['counts'])
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    from torch import distributed

    distributed.init_process_group("gloo")
    try:
        yield Processes(distributed.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        distributed.destroy_process_group()
