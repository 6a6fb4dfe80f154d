"""What is installed, and by which commands."""
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from mmdet_moe import requirements

ROOT = Path(__file__).parents[1]
OPENMMLAB = re.compile(
    r'(onedl-)?(mmcv|mmengine|mmdet|mmdetection|mmpretrain)(-\w+)?|torch\w*')


def names(lines):
    return {re.split(r'[=<>!~\[; ]', line, maxsplit=1)[0]: line
            for line in map(str.strip, lines) if line and line[0] != '#'}


def pins(stack):
    return names((ROOT / f'requirements/{stack}.txt').read_text().split('\n'))


def test_messages_have_the_versions_that_are_tested():
    text = requirements._INSTALL + requirements._MMPRETRAIN
    commands = '\n'.join(line for line in text.split('\n')
                         if line.startswith('    pip install'))
    for name, pin in pins('onedl').items():
        assert re.search(rf'[ "]{re.escape(pin)}["\s]', commands + '\n'), name
    assert pins('openmmlab')['mmpretrain'] in requirements._MMPRETRAIN


def test_no_extra_installs_a_second_stack():
    """The import names of both stacks are the same."""
    config = ConfigParser()
    config.read(ROOT / 'setup.cfg')
    for extra, text in [*config['options.extras_require'].items(),
                        ('none', config['options']['install_requires'])]:
        found = [n for n in names(text.split('\n')) if OPENMMLAB.fullmatch(n)]
        assert not found, extra


@pytest.mark.parametrize('stack', ['onedl', 'openmmlab'])
def test_every_part_of_a_stack_has_a_version(stack):
    found = {OPENMMLAB.fullmatch(name)[2] for name in pins(stack)
             if OPENMMLAB.fullmatch(name)} - {None}
    assert len(found) == 4 and all(
        '==' in pin for name, pin in pins(stack).items()
        if OPENMMLAB.fullmatch(name))
