"""Each call of a tool that is written down has options that the tool knows."""
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from command import ROOT

#: A call to its end: that of the line, or of the code that it is in.
CALL = re.compile(r'python\s+(tools/[\w/]+\.py)'
                  r'((?:\\\n|[^\n`]|\n(?=[^`\n]*`))*)')
#: What stands for a file of the reader's.
OWN = 'configs/mine.py', 'configs/domains/...', 'configs/cifar100/cells'


def calls():
    files = [ROOT / 'README.md', *ROOT.glob('docs/**/*.md'),
             *ROOT.glob('configs/**/README.md')]
    found = {
        (tool, rest.partition('&&')[0].replace('\\\n', ' ').strip()):
        str(file.relative_to(ROOT))
        for file in files for tool, rest in CALL.findall(file.read_text())
    }
    return sorted((tool, rest, file) for (tool, rest), file in found.items())


def test_most_tools_are_documented():
    tools = {tool for tool, _, _ in calls()}
    assert len(calls()) > 40 and len(tools) > 11


@pytest.mark.parametrize('tool, rest, file', calls())
def test_it_is_understood(tool, rest, file, monkeypatch, capsys):
    assert (ROOT / tool).is_file(), file
    arguments = shlex.split(rest, comments=True)
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    spec = importlib.util.spec_from_file_location(Path(tool).stem, ROOT / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        module.parse_args()
    except SystemExit:
        pytest.fail(f'{file}: {tool} {rest}: {capsys.readouterr().err}')
    missing = [one for one in arguments if one.startswith('configs/')
               and one not in OWN and not (ROOT / one).exists()]
    assert not missing, file
