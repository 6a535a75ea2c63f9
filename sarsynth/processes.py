"""The processes of one job: which of them this is, what falls to it, and how a job gets several on one machine.

Torchrun and SLURM start processes themselves; elsewhere `launch` does. Each runs the whole job. What one must do alone
is done by rank 0, work is shared out by place (`mine`), and no artifact depends on how many there are. Torch is
imported only where there are several.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from sarsynth.errors import UserError

Item = TypeVar("Item")


def rank() -> int:
    """This process's number in its job; 0 outside of a distributed one."""
    return _number(("RANK", "SLURM_PROCID", "LOCAL_RANK"), 0)


def count() -> int:
    """Processes of this job; 1 outside of a distributed one."""
    return _number(("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), 1) if _launched() else 1


def _launched() -> bool:
    """Whether somebody started this process as one of a group; a SLURM allocation alone is none."""
    return any(key in os.environ for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _number(keys: Sequence[str], default: int) -> int:
    return next((int(os.environ[key]) for key in keys if key in os.environ), default)


def mine(items: Sequence[Item]) -> Sequence[Item]:
    """The items that fall to this process: each `count()`-th, from its rank on."""
    return items[rank() :: count()]


def join(backend: str) -> None:
    """Join the processes of this job into one group, once; a single process does nothing.

    Args:
        backend: Of torch.distributed: `nccl` on CUDA, `gloo` elsewhere.
    """
    if count() > 1:
        from torch import distributed

        if not distributed.is_initialized():
            _meet_under_slurm()
            distributed.init_process_group(backend, rank=rank(), world_size=count())


def _meet_under_slurm() -> None:
    """Say where processes that srun started meet, as torchrun would have: on the first node, at a port of the job."""
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        first = SLURMEnvironment()
        os.environ.setdefault("MASTER_ADDR", first.main_address)
        os.environ.setdefault("MASTER_PORT", str(first.main_port))


def barrier() -> None:
    """Wait until all processes of the job are here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()


def least(number: int) -> int:
    """The smallest of the numbers that the processes of this job have."""
    if count() == 1:
        return number
    from torch import distributed

    numbers = [number] * distributed.get_world_size()
    distributed.all_gather_object(numbers, number)
    return min(numbers)


def launch(target: Callable[..., None], args: Sequence[Any], processes: int) -> None:
    """Call a function in several new processes of one group on this machine, and wait for them.

    If one fails the others are ended.

    Args:
        target: Of the top level of a module.
        args: Its arguments; they are pickled.
        processes: How many.

    Raises:
        UserError: One of them raised it.
        torch.multiprocessing.ProcessRaisedException: One of them has a defect; holds its traceback.
    """
    from lightning.fabric.plugins.environments.lightning import find_free_network_port
    from torch.multiprocessing.spawn import ProcessException, spawn

    with TemporaryDirectory() as folder:
        try:
            spawn(_run, (target, tuple(args), processes, find_free_network_port(), Path(folder)), nprocs=processes)
        except ProcessException:
            if messages := sorted(Path(folder).iterdir()):
                raise UserError(messages[0].read_text(encoding="utf-8")) from None
            raise


def _run(
    index: int, target: Callable[..., None], args: tuple[Any, ...], processes: int, port: int, errors: Path
) -> None:
    """Set the variables that torchrun would set, then do the work; a `UserError` is left as text in `errors`."""
    place = {"RANK": index, "LOCAL_RANK": index, "GROUP_RANK": 0}
    size = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({key: str(number) for key, number in (place | size | {"MASTER_PORT": port}).items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "sarsynth"})
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        target(*args)
    except UserError as error:
        (errors / f"{index:06d}").write_text(str(error), encoding="utf-8", errors="backslashreplace")
        sys.exit(1)
    finally:
        leave()


def leave() -> None:
    """Leave the group; that others have left it already is no error."""
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            with suppress(RuntimeError):
                distributed.destroy_process_group()
