"""One config of each of MMDetection's folders, made small, with experts.

    python -m pytest -m slow tests/test_families.py -n 2

Each is built, trained for a step, compared with the detector without experts
and asked who decided, in a process of its own; the table is printed at the
end. What a detector cannot do without experts is not asked of it with them.
Families of GLIP and Grounding DINO need ``transformers``, that of timm needs
``timm``, and trackers need ``motmetrics`` and ``lap``.
"""
import json
import time
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

from families.choice import folders
from families.inputs import language_model
from families.row import HANGS, row
from families.table import counts, excuse, markdown, mistakes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

#: At least so many families, where all packages are there.
LEAST = dict(trained=108, decided=108)


class Rows:
    """What was found out about the families, by all processes of a test run.

    Args:
        folder: That the processes share.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def of(self, family: str) -> dict:
        """The row of a family; whoever asks first finds it out."""
        done = self.folder / f'{family}.json'
        try:
            (self.folder / family).mkdir()
        except FileExistsError:
            limit = time.time() + HANGS + 60
            while not done.exists() and time.time() < limit:
                time.sleep(0.2)
        else:
            found = row(family, self._words(), self.folder / family)
            part = done.with_suffix('.part')
            part.write_text(json.dumps(found))
            part.rename(done)
        return json.loads(done.read_text())

    def _words(self) -> str:
        return language_model(self.folder / 'words')


@pytest.fixture(scope='session')
def rows(tmp_path_factory) -> Rows:
    base = tmp_path_factory.getbasetemp()
    # that of a process of pytest-xdist is in the one of the whole run
    return Rows((base.parent if 'popen' in base.name else base) / 'families')


@pytest.mark.parametrize('family', folders())
def test_nothing_breaks_with_experts(family, rows):
    found = rows.of(family)
    assert not mistakes(found)
    if found.get('built', [None])[0] is None:
        pytest.skip(excuse(found))


def test_most_families_work(rows, record_property):
    found = {family: rows.of(family) for family in folders()}
    record_property('table', markdown(found))
    number = counts(found)
    missing = sum('No module named' in (excuse(r) or '')
                  or 'not installed' in (excuse(r) or '')
                  for r in found.values())
    for column, least in LEAST.items():
        assert number[column] >= least - missing, column
    assert number['equal'] == number['comparable'] >= 98 - missing
