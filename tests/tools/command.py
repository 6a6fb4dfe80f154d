"""The tools as a user calls them, on a few generated pictures."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOE = 'configs/retinanet_moe_fpn_shapes.py'


def tool(*args, ok=True):
    """What a tool prints; one that should fail says why in a line."""
    done = subprocess.run([sys.executable, *map(str, args)],
                          cwd=ROOT,
                          capture_output=True,
                          text=True)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output[-4000:]
    if not ok:
        assert 'Traceback' not in output, output[-4000:]
    return output


def on(root, *more):
    """--cfg-options that put the shapes config on another folder."""
    loaders = [
        f'{name}_dataloader.dataset.data_root={root}/'
        for name in ('train', 'val', 'test')
    ]
    metrics = [
        f'{name}_evaluator.{i}.ann_file={root}/annotations/instances_val.json'
        for name in ('val', 'test') for i in (0, 1)
    ]
    return [
        '--cfg-options', *loaders, *metrics, 'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False', *more
    ]
