"""Processes of their own, forked from one that has imported everything: no test waits ten seconds for each."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

CONTEXT = multiprocessing.get_context("forkserver")  # this process has threads, and must not be forked itself
CONTEXT.set_forkserver_preload(["sarsynth.commands.train"])


def run(target: Callable[..., None], *args: Any, timeout: float = 500) -> int:
    """Call a function in a process and return its exit code: 0, 1 after an exception, -9 after SIGKILL."""
    return _finish([_start({}, target, *args)], timeout)[0]


def run_on_two(target: Callable[..., None], *args: Any, timeout: float = 500) -> list[int]:
    """Call a function in two processes of one group, as torchrun starts them, and return their exit codes."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": find_free_network_port(), "TORCHELASTIC_RUN_ID": "test"}
    group |= {"GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    return _finish([_start(group | {"RANK": rank, "LOCAL_RANK": rank}, target, *args) for rank in (0, 1)], timeout)


def _start(variables: dict[str, Any], target: Callable[..., None], *args: Any) -> Any:
    process = CONTEXT.Process(target=_call, args=({key: str(value) for key, value in variables.items()}, target, args))
    process.start()
    return process


def _call(variables: dict[str, str], target: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    target(*args)


def _finish(processes: list[Any], timeout: float) -> list[int]:
    for process in processes:
        process.join(timeout)
        process.kill()  # what hangs; nothing to one that has ended
        process.join()
    return [process.exitcode for process in processes]
