"""Where tasks run: processes of this machine, or a Ray cluster.

In: tasks. Out: receipts, as tasks end. Both executors give the same files, because a task is a pure
function of files. On a cluster all machines must see the data under the same paths.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from chatlm.corpus.tasks import Ended, Executor, HereAndNow, Task, call
from chatlm.errors import ConfigError, DataError

_PARENT_CHECK_SECONDS = 0.5
_IN_FLIGHT_PER_CPU = 2


def executor_for(engine: str, workers: int, address: str) -> Executor:
    """Returns the executor that the settings name.

    Args:
        engine: `local` or `ray`.
        workers: Processes of `local`; 0 takes one for each core.
        address: Of an existing Ray cluster (`auto`, `ray://host:10001`); "" starts one here.

    Raises:
        ConfigError: No such engine, a negative number of workers, or Ray is not installed.
    """
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine={engine}: there are local and ray")
    if workers < 0:
        raise ConfigError(f"workers={workers} must be 0 (one for each core) or more")
    if engine == "ray":
        return RayCluster(address, workers)
    if address:
        raise ConfigError(f"address={address} has no effect with engine=local; add engine=ray")
    workers = workers or len(os.sched_getaffinity(0))
    return HereAndNow() if workers == 1 else LocalPool(workers)


class LocalPool:
    """Worker processes of this machine; they end with the process that started them, or before."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def execute(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Ended]]:
        """Yields (index of the task, receipt or what it raised) as they end.

        Raises:
            DataError: A worker process was killed.
        """
        if len(tasks) < 2:  # Not worth a process.
            yield from HereAndNow().execute(tasks)
            return
        pool = self._started()
        futures = {pool.submit(call, task): index for index, task in enumerate(tasks)}
        try:
            yield from _as_they_end(futures)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed, perhaps because memory ran out; what is done is "
                "kept: run the same command again, with workers=1 if it was memory"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Ends the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _started(self) -> ProcessPoolExecutor:
        """Returns the pool, which lives as long as this process: starting it takes seconds."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=get_context("spawn"),
                initializer=_end_with_parent,
                initargs=(os.getpid(),),
            )
        return self._pool


def _as_they_end(
    futures: dict["Future[Ended]", int],
) -> Iterator[tuple[int, Ended]]:
    waiting = set(futures)
    while waiting:
        ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in ended:
            yield futures[future], future.result()


def _end_with_parent(parent: int) -> None:
    """Ends this process when its parent is gone, even if the parent was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class RayCluster:
    """Ray tasks, one for each shard; the driver only hands them out."""

    def __init__(self, address: str, workers: int) -> None:
        self._address = address
        self._workers = workers
        self._ray: Any = None

    def execute(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Ended]]:
        """Yields (index of the task, receipt or what it raised) as they end.

        Raises:
            DataError: A worker was lost.
        """
        ray = self._connected()
        remote = ray.remote(num_cpus=1, max_retries=2)(call)
        in_flight = _IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, refs = list(enumerate(tasks))[::-1], dict[Any, int]()
        while waiting or refs:
            while waiting and len(refs) < in_flight:
                index, task = waiting.pop()
                refs[remote.remote(task)] = index
            ended, _ = ray.wait(list(refs), num_returns=1)
            for ref in ended:
                try:
                    yield refs.pop(ref), ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().split("\n", 1)[0]
                    raise DataError(
                        f"Ray lost a task ({reason}); what is done is kept: run the same command "
                        "again"
                    ) from error

    def close(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _connected(self) -> Any:
        """Returns the ray module, connected to the cluster."""
        try:
            import ray
        except ImportError as error:
            raise ConfigError('engine=ray needs Ray: pip install -e ".[scale]"') from error
        if not ray.is_initialized():
            settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
            if self._address:
                settings["address"] = self._address
            else:
                settings |= {"num_cpus": self._workers or None, "include_dashboard": False}
            try:
                ray.init(**settings)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise ConfigError(f"no Ray cluster at {self._address!r}: {reason}") from error
        self._ray = ray
        return ray
