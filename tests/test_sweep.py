"""A grid: which runs there are, and what becomes of them."""
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdet_moe.files import DataError, TrainingError
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.sweep import runs_of, sweep, write_slurm, write_table
from mmdet_moe.sweep.running import Tools, carry_out

GRID = """
base = './base.py'
others = dict(dense='./dense.py')
axes = dict(
    constraint=dict(none={'model.moe.soft': None}, kl={'model.moe.soft': 'KL'}),
    experts={f'e{e}': {'model.moe.experts': e} for e in (4, 10)})
"""
#: In the place of the tools: write what they would.
TRAIN = """
import sys
from pathlib import Path
arguments = ' '.join(sys.argv[1:])
if 'kl_e10' in arguments and 'seed=1' in arguments:
    sys.exit('error: the loss is not finite')
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
(folder / 'last_checkpoint').write_text('epoch_1.pth')
"""
REPORT = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
folder.mkdir(exist_ok=True)
seed = int(' '.join(sys.argv).split('seed=')[1][0])
told = dict(of='class', given_level=False, bits=1.0, nmi=0.25,
            leading_nmi=0.5, p_value=0.01 * (1 + seed),
            random_p_value=None)
(folder / 'report.json').write_text(json.dumps(dict(
    format='mmdet_moe report', name='x', interventions=[],
    words=dict(metric='accuracy', by='class'),
    metrics=dict(accuracy=dict(value=0.5 + 0.1 * seed)),
    layers=dict(layer=dict(
        living_experts=4, experts=4, importance=[0.5, 0.5, 0, 0],
        importance_cv=0.1, share_cv=0.1,
        input_dependence=dict(all=dict(bits=1.0)), specialisation=[told])))))
"""
TEST = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1], '20260101_000000')
folder.mkdir(parents=True)
(folder / 'test.json').write_text(json.dumps({'accuracy/top1': 40.0}))
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / 'grid.py').write_text(GRID)
    (tmp_path / 'base.py').write_text('model = dict(moe=dict(experts=2))')
    (tmp_path / 'dense.py').write_text('model = dict()')
    for name, code in (('train', TRAIN), ('test', TEST),
                       ('analysis_tools/expert_report', REPORT)):
        path = tmp_path / 'tools' / f'{name}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    return str(tmp_path / 'grid.py')


def test_the_runs(grid):
    runs = runs_of(grid, seeds=(0, 1))
    assert [run.name for run in runs] == 2 * [
        'none_e4', 'none_e10', 'kl_e4', 'kl_e10', 'dense']
    assert runs[8].config.model.moe == dict(soft='KL', experts=10)
    assert runs[8].cell == dict(constraint='kl', experts='e10')
    assert [run.name for run in runs_of(grid, only=dict(experts=['e4']))] == [
        'none_e4', 'kl_e4']
    with pytest.raises(ConfigError, match="experts='e5': allowed is e4 or"):
        runs_of(grid, only=dict(experts=['e5']))
    with pytest.raises(DataError, match="no grid; it needs 'base', a config,"):
        runs_of(str(Path(grid).parent / 'base.py'))


def test_each_cell_is_merged_anew(grid):
    folder = Path(grid).parent
    (folder / 'base.py').write_text(
        "model = dict(moe=dict(experts=2, soft=dict(type='KL', extra=7)))")
    Path(grid).write_text(GRID.replace(
        "'KL'", "dict(_delete_=True, type='Other')"))
    runs = runs_of(grid, only=dict(constraint=['kl']))
    assert [run.config.model.moe.soft for run in runs] == 2 * [
        dict(type='Other')]


@pytest.mark.parametrize('change, message', [
    (('none=', 'kl_e4={}, none='), None),
    (("dense='./dense.py'", "kl_e4='./dense.py'"), 'two cells of the name kl_'),
    (('constraint=', 'layer='), "an axis 'layer', which is the name of a col"),
    (('none=', "**{'../../../escaped': {}}, none="), 'escaped'),
    (("dense='", "**{'../dense': './dense.py'}, dense='"), r'\.\./dense'),
    (('model.moe.soft\': None', 'mddel.moe.soft\': 1'),
     "'constraint', value 'none' sets mddel.moe.soft.*there is model"),
    (("{'model.moe.soft': None}", "{'model.moe.soft': 'KL'}"),
     "axis 'constraint' give the same")])
def test_names(grid, change, message):
    Path(grid).write_text(GRID.replace(*change))
    if message is None:
        assert len(runs_of(grid)) == 7
        return
    with pytest.raises(DataError, match=message):
        runs_of(grid)


def test_a_grid_that_would_run_code(tmp_path):
    (tmp_path / 'grid.yaml').write_text(
        '!!python/object/apply:os.mkdir [%s]' % (tmp_path / 'made'))
    with pytest.raises(DataError, match='grid.yaml is no grid'):
        runs_of(str(tmp_path / 'grid.yaml'))
    assert not (tmp_path / 'made').exists()


def test_results_of_other_settings_are_refused(grid, tmp_path):
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    runs = runs_of(grid, only=dict(experts=['e4']))
    made = dict(cfg_options=['a=1'], report_options=['--seed', '1'])
    list(sweep(runs, work_dir, tools, **made))
    assert list(sweep(runs, work_dir, tools, **made)) == []
    for other, message in (
            (dict(cfg_options=[]), "options: there 'a=1', asked for nothing"),
            (dict(report_options=['--seed', '2']), "there '1', asked for '2'")):
        with pytest.raises(DataError, match=message):
            list(sweep(runs, work_dir, tools, **{**made, **other}))
    runs[0].result(work_dir).unlink()
    runs[1].result(work_dir).unlink()
    # of the reports alone
    list(sweep(runs, work_dir, tools, cfg_options=['a=1']))
    assert 'a=1' in write_table(grid, work_dir)
    Path(grid).write_text(GRID.replace('(4, 10)', '(4, )').replace(
        ': e}', ': 2 * e}'))
    with pytest.raises(DataError, match='there .*experts=4.*asked .*experts=8'):
        list(sweep(runs_of(grid, only=dict(experts=['e4'])), work_dir, tools,
                   cfg_options=['a=1']))
    assert 'kl_e4, seed 0: left out, as it was made with another config' in (
        write_table(grid, work_dir))


def test_what_has_not_begun_may_change(grid, tmp_path):
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    (tools / 'train.py').write_text('import sys; sys.exit("error: no data")')
    with pytest.raises(TrainingError):
        list(sweep(runs_of(grid), work_dir, tools))
    (tools / 'train.py').write_text(TRAIN)
    assert len(list(sweep(
        runs_of(grid), work_dir, tools, cfg_options=['a=1']))) == 5


def test_an_interrupted_sweep_leaves_nothing_running(grid, tmp_path):
    """What runs is ended by SIGTERM; without that it keeps its folder."""
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    begun = tmp_path / 'begun'
    (tools / 'train.py').write_text(
        'import os, time\nfrom pathlib import Path\n'
        f'Path({str(begun)!r}).write_text(str(os.getpid()))\n'
        'time.sleep(60)')
    code = (
        'import sys\nfrom pathlib import Path\n'
        'from mmdet_moe.launch import clear_errors\n'
        'from mmdet_moe.sweep import runs_of, sweep\n'
        'with clear_errors():\n'
        f'    list(sweep(runs_of({grid!r})[:1], Path({str(work_dir)!r}), '
        f'Path({str(tools)!r})))')
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (begun.exists() and begun.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child = int(begun.read_text())
        begun.unlink()
        process.send_signal(number)
        # Within the minute that the training sleeps.
        error = process.communicate(timeout=30)[1]
        if number == signal.SIGTERM:
            assert 'error: interrupted; called again, the sweep goes' in error
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
            continue
        said = []
        with pytest.raises(TrainingError):
            for line in sweep(runs_of(grid)[:1], work_dir, tools):
                said.append(line)
        assert 'another process is at the same work (sweep) in' in said[0]
        os.kill(child, signal.SIGKILL)


def test_a_report_that_was_cut_off(grid, tmp_path):
    """It goes on if it is to be the same, and begins anew if not."""
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    report = tools / 'analysis_tools' / 'expert_report.py'
    report.write_text(
        'import sys\nwith open(sys.argv[0] + ".calls", "a") as file:\n'
        '    print("--resume" in sys.argv, file=file)\n'
        'sys.exit("error: cut off")')
    for options in ([], [], ['--seed', '1'], ['--seed', '1']):
        with pytest.raises(TrainingError):
            list(sweep(runs_of(grid)[:1], work_dir, tools,
                       report_options=options))
    assert Path(f'{report}.calls').read_text().split() == [
        'False', 'True', 'False', 'True']


def test_what_nobody_knows_is_refused(grid, tmp_path):
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    run = runs_of(grid)[0]
    list(sweep([run], work_dir, tools))
    (work_dir / 'none_e4' / 'seed_0_old').mkdir()  # is passed over
    assert 'none_e4' in write_table(grid, work_dir)
    (run.folder(work_dir) / 'settings.json').unlink()
    with pytest.raises(DataError, match='seed_0 has no settings.json'):
        list(sweep([run], work_dir, tools))


def test_what_another_sweep_has_done(grid, tmp_path):
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    run = runs_of(grid)[0]
    carry_out(run, work_dir, Tools(tools))
    (tools / 'train.py').write_text('import sys; sys.exit("error: again")')
    carry_out(run, work_dir, Tools(tools))


def test_nothing_begins_after_the_end(grid, tmp_path):
    stopped = Tools(tmp_path / 'tools')
    stopped.stop()
    with pytest.raises(TrainingError, match='interrupted'):
        carry_out(runs_of(grid)[0], tmp_path / 'runs', stopped)


def test_a_run_without_a_checkpoint_does_not_stop_the_others(grid, tmp_path):
    tools = tmp_path / 'tools'
    (tools / 'train.py').write_text('')
    said = []
    with pytest.raises(TrainingError, match='5 of 5'):
        for line in sweep(runs_of(grid), tmp_path / 'runs', tools):
            said.append(line)
    assert all('has written no checkpoint to' in line for line in said)


def test_a_sweep_goes_on_where_it_stopped(grid, tmp_path):
    tools, work_dir = tmp_path / 'tools', tmp_path / 'runs'
    runs = runs_of(grid, seeds=(0, 1))
    said = []
    with pytest.raises(TrainingError, match='1 of 10 runs have failed'):
        for line in sweep(runs, work_dir, tools, jobs=2):
            said.append(line)
    assert len(said) == 10 and sum('done' in line for line in said) == 9, said
    assert [line for line in said if 'not finite' in line] == [
        f'kl_e10, seed 1: train.py failed, see {work_dir}/kl_e10/seed_1/'
        'sweep.log: error: the loss is not finite']
    (tools / 'train.py').write_text(TRAIN.replace('seed=1', 'seed=9'))
    assert list(sweep(runs, work_dir, tools)) == ['kl_e10, seed 1: done']
    text = write_table(grid, work_dir)
    rows = list(csv.DictReader((work_dir / 'table.csv').open()))
    assert len(rows) == 10
    assert [row['NMI'] for row in rows if row['constraint']] == 8 * ['0.25']
    assert '55 ± 7.1' in text and '| dense    | -' in text
    head, first = text.splitlines()[1], text.splitlines()[3]
    assert first.split('|')[head.split('|').index(' largest p ')].strip() == (
        '0.02')
    Path(grid).write_text(GRID.replace('constraint=', 'NMI='))
    with pytest.raises(DataError, match="an axis 'NMI', which is the name"):
        write_table(grid, work_dir)


def test_a_job_array(grid, tmp_path):
    """Each job is the command, whatever is in the names."""
    script = tmp_path / 'jobs.sh'
    write_slurm(runs_of(grid, seeds=(3, )), script,
                ['printf', '%s\n', "a 'quoted' $HOME name"])
    out = subprocess.run(
        ['bash', str(script)], capture_output=True, text=True,
        env=dict(SLURM_ARRAY_TASK_ID='2', HOME='/')).stdout
    assert out.splitlines() == [
        "a 'quoted' $HOME name", '--run', 'kl_e4', '--seeds', '3']
    assert '--array=0-4' in script.read_text()
