"""Joins the processes that `torchrun` or `accelerate launch` has started, and parts them again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from saha_st.heartbeat import Heartbeat, Report
from saha_st.ranks import (
    PATIENCE,
    LostProcessError,
    OtherProcessFailedError,
    Ranks,
    control_group,
    forget_control_group,
)

ARRIVAL = timedelta(minutes=10)
"""How long the first process to be ready waits for the last: what starting Python and importing torch may take."""

_COURTESY = 1.0
"""Seconds that others leave to who has failed, to say why: launchers kill all as soon as one has ended."""


@contextmanager
def joined(device: str | None = None, report: Report | None = None) -> Iterator[str | None]:
    """Join the processes of a launcher for a block; without a launcher, do nothing.

    Inside, `Ranks.current()` tells which process this is, and one that dies ends all others within a minute. All
    processes leave the block together, unless one of them raises.

    Args:
        device: ``"cpu"`` to compute on the CPU where there is a GPU.
        report: Says what fails in this process, before it waits for the others; it is raised all the same, with the
            attribute ``is_reported``. By default one line in the log.

    Yields:
        The torch device of this process; None without a launcher.

    Raises:
        ValueError: A device that processes cannot each have for themselves, or DeepSpeed.
        ConnectionError: Not all processes have found each other.
        OtherProcessFailedError: Another process failed, and says why.
        LostProcessError: Another process has ended without a word.
    """
    launched = Ranks.launched()
    if launched.count == 1:
        yield None
        return
    store, heartbeat = _find_each_other(launched, report)
    heartbeat.start()
    try:
        own_device = _form_group(store, launched, on_cpu=device == "cpu")
        ranks = Ranks.current()
        # To the end of this all processes wait: the first one holds the store, and goes when all have done their work.
        with ranks.together():
            _check(device, ranks, launched)
            yield own_device
    except OtherProcessFailedError:
        time.sleep(_COURTESY)
        raise
    except BaseException as error:
        if not isinstance(error, LostProcessError):
            heartbeat.announce_failure(error)
        raise
    finally:
        heartbeat.stop()
    _destroy_group()


def _find_each_other(launched: Ranks, report: Report | None) -> tuple[Any, Heartbeat]:
    """Wait until all processes have come; returns their store, and what they will hear of each other by."""
    from torch.distributed import PrefixStore, TCPStore, rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=ARRIVAL))
        connection = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=30),
        )
        # A launcher that starts all anew after a failure may go on with the same store.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own = PrefixStore(f"saha_st/heartbeat/{attempt}", connection)
        own.set(str(launched.rank), "here")
        own.wait([str(rank) for rank in range(launched.count)], ARRIVAL)
    except RuntimeError as error:
        raise ConnectionError(
            f"The {launched.count} processes that WORLD_SIZE names have not found each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({str(error).splitlines()[0]}). See what the "
            "others say, that the port is free on the first machine, and that all machines reach it."
        ) from error
    return store, Heartbeat(own, launched.rank, launched.count, report=report)


def _form_group(store: Any, launched: Ranks, *, on_cpu: bool) -> str:
    """Form the process group, gloo on CPUs and NCCL on GPUs; returns this process's device."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise ValueError(
            "--use_deepspeed: DeepSpeed forms a process group of its own, which saha-st cannot join. Start accelerate "
            "launch with --multi_gpu instead."
        )
    on_cpu = on_cpu or parse_flag_from_env("ACCELERATE_USE_CPU") or not _has_accelerator()
    if on_cpu:  # without this, accelerate and the trainer take each process on a CPU for the only one
        os.environ["ACCELERATE_USE_CPU"] = "1"
    options = {"store": store, "rank": launched.rank, "world_size": launched.count, "timeout": PATIENCE}
    if not on_cpu and torch.cuda.is_available():
        options["backend"] = "cpu:gloo,cuda:nccl"  # a config may say that training is to be on the CPU
    store.set_timeout(PATIENCE)  # the last process may come to its first collective long after the first one
    device = str(PartialState(cpu=on_cpu, **options).device)
    control_group()  # here, while all are here: who fails later has it to tell them by
    return device


def _has_accelerator() -> bool:
    import torch
    from accelerate.utils import is_npu_available, is_xpu_available

    return torch.cuda.is_available() or is_xpu_available() or is_npu_available()


def _check(device: str | None, ranks: Ranks, launched: Ranks) -> None:
    if ranks != launched:
        raise ValueError(
            f"The launcher has started {launched.count} processes, of which this is {launched.rank}, but the process "
            f"group has {ranks.count}. Start them with torchrun or accelerate launch, which set LOCAL_RANK."
        )
    if device is not None and device != "cpu" and ":" in device:
        raise ValueError(
            f"--device {device}: each of the {ranks.count} processes has a device of its own. Leave --device out; "
            "CUDA_VISIBLE_DEVICES says which GPUs to use."
        )


def _destroy_group() -> None:
    from torch import distributed

    distributed.destroy_process_group()
    forget_control_group()  # whose threads else live on while Python ends, and abort the process if they want its lock
