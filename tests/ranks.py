"""Several processes that train together, for the tests."""
import gc
from datetime import timedelta
from pathlib import Path
from typing import Callable, List

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

#: Of the whole, and of the wait for another rank: a test fails, and does not
#: hang, when a rank waits for something that the other one does not do.
SECONDS = 180


def on_ranks(function: Callable, folder: Path, ranks: int = 2,
             seconds: float = SECONDS) -> List:
    """What ``function(rank)`` returns on each rank of a gloo group; a single
    process has no group."""
    folder.mkdir(exist_ok=True)
    context = mp.spawn(_run, (function, str(folder), ranks), ranks, join=False)
    try:
        # Each call waits until one more of them has ended.
        if not any(context.join(seconds) for _ in range(ranks)):
            raise TimeoutError(f'{function}: the ranks do not end')
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f'{rank}.pth') for rank in range(ranks)]


def _run(rank: int, function: Callable, folder: str, ranks: int) -> None:
    # By a file: tests that run at the same time cannot meet at a port.
    if ranks > 1:
        dist.init_process_group(
            'gloo', init_method=f'file://{folder}/group', rank=rank,
            world_size=ranks, timeout=timedelta(seconds=SECONDS / 2))
    torch.save(function(rank), f'{folder}/{rank}.pth')
    if ranks > 1:
        # What an error's traceback has kept holds threads of the group.
        gc.collect()
        dist.destroy_process_group()
