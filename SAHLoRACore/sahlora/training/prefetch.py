"""Reading ahead: the next batches are made while the present one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
AHEAD = 2


def prefetched(items: Iterator[T], ahead: int = AHEAD) -> Generator[T, None, None]:
    """Yield the items, none of them None, while a thread makes up to `ahead` of those that follow.

    Items must not depend on PyTorch's global random state, which belongs to the thread that computes. An
    error in making an item is raised where the item would have been yielded. The thread ends with the
    iterator: close it (`contextlib.closing`) where iteration may stop early.
    """
    with ThreadPoolExecutor(1, "prefetch", initializer=torch.set_num_threads, initargs=(1,)) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            for future in waiting:
                future.cancel()
