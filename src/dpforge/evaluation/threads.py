"""Threads of the learners."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from threadpoolctl import threadpool_limits

SMALL = 200_000


def threads_for(rows: int) -> AbstractContextManager[Any]:
    """A context in which learners use one thread if a table has fewer than 200,000 ``rows``.

    Boosted trees start a parallel region per node. On cores that other processes use as well, threads
    waiting for each other made 32,000 rows take 14 s instead of the .3 s of one thread.
    """
    return threadpool_limits(limits=1, user_api="openmp") if rows < SMALL else nullcontext()
