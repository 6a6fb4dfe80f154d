"""Two processes on a machine without a GPU, by the scripts."""
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from command import MOE, ROOT, on, tool

SMALL = ('model.backbone.base_channels=8', 'model.backbone.stem_channels=8',
         'model.neck.in_channels=[8,16,32,64]', 'train_cfg.max_epochs=1',
         'visualizer.vis_backends=[]', 'model.test_cfg.score_thr=0.0')


def call(*args, ok=True, **environment):
    run = subprocess.run(
        list(map(str, args)), cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=dict(
            os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT),
            **environment))
    assert (run.returncode == 0) == ok, run.stdout[-4000:]
    return run.stdout


def script(name, *args):
    with socket.socket() as free:
        free.bind(('', 0))
        port = free.getsockname()[1]
    return call('bash', f'tools/{name}', *args, PYTHON=sys.executable,
                PORT=str(port))


def taken_apart(text):
    """What is between the numbers of a text, and the numbers."""
    number = r'-?[0-9]+\.[0-9]+(?:e-?[0-9]+)?'
    return re.split(number, text), list(map(float, re.findall(number, text)))


pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='there is a GPU')


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


def test_a_report_of_two_processes_that_was_cut_off_goes_on(
        trained, shapes, tmp_path):
    report = 'tools/analysis_tools/expert_report.py'
    options = [
        MOE, (trained[0] / 'last_checkpoint').read_text(), '--pictures', 3,
        '--resamples', 20, '--permutations', 19, '--interventions', 'drop',
        *on(shapes, 'model.test_cfg.score_thr=0.0')]
    one, two = tmp_path / 'one', tmp_path / 'two'
    tool(report, *options[:2], '--work-dir', one, *options[2:])
    options[2:2] = ['--work-dir', two]
    # The first process fails when all pictures were seen.
    (two / 'objects.jsonl').mkdir(parents=True)
    call(sys.executable, '-m', 'torch.distributed.run', '--standalone',
         '--nproc_per_node=2', report, *options[:4], '--launcher', 'pytorch',
         *options[4:], ok=False)
    assert {path.name[:2] for path in (two / 'report_parts').glob('*.npz')
            } == {'0_', '1_'}
    (two / 'objects.jsonl').rmdir()
    output = tool(report, *options[:4], '--resume', *options[4:])
    assert '0picture' in output  # there was nothing left to see
    assert not (two / 'report_parts').exists()
    # A convolution may round in another way with other pictures in the batch.
    words, numbers = zip(*(taken_apart(
        (folder / 'report.json').read_text() +
        (folder / 'objects.jsonl').read_text()) for folder in (one, two)))
    assert words[0] == words[1]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-4)
