"""The report in a browser: names from files and configs are text."""
import json
import re
import shutil

import pytest
from browser import BROWSER, opened
from command import MOE, ROOT, on, tool

CLASS = '</script><script>document.documentElement.id="ran"</script>'
FILE = '"><img src=x onerror=\'document.documentElement.id="ran"\'>.jpg'


@pytest.mark.skipif(BROWSER is None, reason='there is no Chromium')
def test_names_that_are_scripts_do_not_run(trained, shapes, tmp_path):
    data = tmp_path / 'data'
    shutil.copytree(shapes, data)
    ann_file = data / 'annotations' / 'instances_val.json'
    content = json.loads(ann_file.read_text())
    content['categories'][0]['name'] = CLASS
    picture = content['images'][0]
    (data / 'val' / picture['file_name']).rename(data / 'val' / FILE)
    picture['file_name'] = FILE
    ann_file.write_text(json.dumps(content))
    config = tmp_path / 'config.py'
    classes = [c['name'] for c in content['categories']]
    config.write_text(
        f'_base_ = {str(ROOT / MOE)!r}\n'
        'val_dataloader = test_dataloader = dict(dataset=dict('
        f'metainfo=dict(classes={classes!r})))\n')
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    tool('tools/analysis_tools/expert_report.py', config, checkpoint,
         '--work-dir', tmp_path, '--no-interventions', '--resamples', 20,
         '--permutations', 19, *on(data, 'model.test_cfg.score_thr=0.0'))
    document, console = opened(tmp_path / 'report.html', tmp_path / 'browser')
    # Our own script has run, as its line with the numbers is there.
    assert re.search('[0-9]+ shown, in [0-9]+ of 8 pictures', document)
    assert 'id="ran"' not in document.split('<head>')[0]
    assert document.count('&lt;/script&gt;') > 3
    assert console == []
