"""Two processes on a machine without a GPU, by the scripts."""
import os
import socket
import subprocess
import sys

import pytest
import torch
from command import MOE, ROOT, on, tool

SMALL = ('model.backbone.base_channels=8', 'model.backbone.stem_channels=8',
         'model.neck.in_channels=[8,16,32,64]', 'train_cfg.max_epochs=1',
         'visualizer.vis_backends=[]', 'model.test_cfg.score_thr=0.0')


def script(name, *args):
    with socket.socket() as free:
        free.bind(('', 0))
        port = free.getsockname()[1]
    run = subprocess.run(
        ['bash', f'tools/{name}', *map(str, args)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(
            os.environ, PYTHON=sys.executable, PORT=str(port),
            OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)))
    assert run.returncode == 0, run.stdout[-4000:]
    return run.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_two_processes_train_and_test(shapes, tmp_path):
    options = on(shapes, *SMALL)
    # three batches of 3, 3 and 2 pictures: one rank has more than the other
    options = [x.replace('train_dataloader.batch_size=4',
                         'train_dataloader.batch_size=3') for x in options]
    script('dist_train.sh', MOE, 2, '--work-dir', tmp_path / 'two', '--amp',
           *options)
    checkpoint = tmp_path / 'two' / 'epoch_1.pth'
    script('dist_test.sh', MOE, checkpoint, 2, '--work-dir', tmp_path / 'a',
           *options)
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path / 'b',
         *options)
    two, one = (
        (tmp_path / name / 'expert_assignment.json').read_text()
        for name in 'ab')
    assert two == one
