"""Who may know whom."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmdet_moe'


@pytest.mark.parametrize('what, where, except_in', [
    # the core knows nothing of MMDetection
    (r'mmdet(?!_moe)|mmcv|mmengine|RetinaHead|custom_hooks|conv_cfg|norm_cfg',
     'layers', ()),
    # no detector is special
    ('MoERetinaHead|retina_', '.',
     ('detection/dense_heads', 'detection/__init__')),
    # no decision is kept in a layer
    (r'layer\.routing|\.map_shapes', '.', ()),
    # layers are below everything, analysis is above it, models are below
    # what looks at them; wherever in a file the import stands
    (r'^\s*(from|import) mmdet_moe\.(?!layers)', 'layers', ()),
    (r'^\s*(from|import) mmdet_moe\.'
     '(conversion|hooks|evaluation|visualization|analysis|detection|'
     'classification)', 'models', ()),
    (r'^\s*(from|import) mmdet_moe\.'
     '(conversion|hooks|evaluation|visualization|analysis)', 'detection', ()),
    # what is not about detection does not know MMDetection
    (r'^\s*(from|import) mmdet\b', 'models', ()),
    (r'^\s*(from|import) mmdet\b', 'classification', ()),
    (r'^\s*(from|import) mmdet\b', 'hooks', ()),
    # what is common to all reports knows neither objects nor pictures
    (r'^\s*(from|import) (mmdet\b|mmpretrain|pycocotools|mmcv)|\bcoco\b',
     'analysis', ('analysis/subjects/', 'analysis/complexity')),
    *((r'^\s*(from|import) mmdet_moe\.analysis', package, ())
      for package in ('conversion', 'hooks', 'evaluation', 'visualization')),
    # packages import each other by their full names, which are seen above
    (r'^\s*from \.\.', 'layers', ()),
    (r'^\s*from \.\.\.', '.', ()),
])
def test_walls(what, where, except_in):
    found = [
        f'{path.relative_to(PACKAGE)}:{n}: {line}'
        for path in sorted((PACKAGE / where).glob('**/*.py'))
        if not str(path.relative_to(PACKAGE)).startswith(tuple(except_in))
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(what, line)
    ]
    assert not found, '\n'.join(found)
