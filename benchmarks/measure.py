"""Ratios of times and memory, each measured in one run on one machine.

On Linux glibc is told to keep the memory that is freed. By default it gives
blocks above 32 MB back, and to get them anew takes as long as to fill them
several times, at one line of a program and not at the next. jemalloc or
tcmalloc, or ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000`` in the
environment, do the same for a training on a CPU.
"""
import contextlib
import ctypes
import platform
import subprocess
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Callable, Dict

import torch


def keep_memory() -> None:
    """See above; where there is no glibc, nothing."""
    try:
        libc = ctypes.CDLL('libc.so.6')
    except OSError:
        return
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def _give_back() -> None:
    """Give what is freed back at once, so that a peak is of what is in use,
    as on a GPU; by default glibc keeps blocks below 32 MB."""
    with contextlib.suppress(OSError):
        ctypes.CDLL('libc.so.6').mallopt(-3, 2**18)  # M_MMAP_THRESHOLD


def medians(functions: Dict[str, Callable[[], object]],
            repeats: int) -> Dict[str, float]:
    """Seconds of each function, run in turns, so that what slows the machine
    for a while slows all of them; the first turn is not counted."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            wait()
            start = time.perf_counter()
            function()
            wait()
            times[name].append(time.perf_counter() - start)
    return {name: median(x[1:]) for name, x in times.items()}


def peak_memory(prepare: Callable[..., Callable[[], object]], *args) -> int:
    """Bytes that ``prepare(*args)()`` needs at most, beyond what
    ``prepare(*args)`` has taken before.

    On a CPU in a process of its own, as freed memory is not given back; on
    Linux only.
    """
    if torch.cuda.is_available():
        run = prepare(*args)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    context = get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, prepare, *args))
    process.start()
    sender.close()  # so that the child's end is seen if it fails
    peak = receiver.recv()
    process.join()
    return peak


def _report(sender, prepare: Callable, *args) -> None:
    _give_back()
    run = prepare(*args)
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far
    before = _status('VmRSS')
    run()
    sender.send(_status('VmHWM') - before)


def _status(key: str) -> int:
    """Bytes of this process that the kernel counts under a key."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(
        int(line.split()[1]) for line in lines if line.startswith(key))


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    """What the numbers were measured with, for the head of a table."""
    commit = subprocess.run(['git', 'describe', '--always', '--dirty'],
                            capture_output=True, text=True).stdout.strip()
    device = (torch.cuda.get_device_name() if torch.cuda.is_available() else
              f'{torch.get_num_threads()} threads of {_cpu()}')
    return f'commit {commit}, {device}, PyTorch {torch.__version__}'


def _cpu() -> str:
    try:
        with open('/proc/cpuinfo') as lines:
            return next(line.split(':')[1].strip() for line in lines
                        if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
