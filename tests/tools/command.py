"""The tools as a user calls them, on a few generated pictures."""
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOE = 'configs/retinanet_moe_fpn_shapes.py'

# Each call is a process of its own, as it is for a user. It is forked off one
# that has imported MMDetection, which takes longer than most of the calls.
_processes = multiprocessing.get_context('forkserver')
_processes.set_forkserver_preload(
    ['mmdet.apis', 'mmdet.datasets', 'mmdet.engine', 'mmdet.models'])


def _run(args, output):
    os.chdir(ROOT)
    with open(output, 'wb') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = args
    sys.path.insert(0, str(Path(args[0]).parent))
    runpy.run_path(args[0], run_name='__main__')


def tool(*args, ok=True):
    """What a tool prints; one that should fail says why in a line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'output')
        process = _processes.Process(
            target=_run, args=([str(arg) for arg in args], file))
        process.start()
        process.join()
        output = file.read_text()
    assert (process.exitcode == 0) == ok, output[-4000:]
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
