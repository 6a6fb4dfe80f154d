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
    ('MoERetinaHead|retina_', '.', ('models/dense_heads', 'models/__init__')),
    # no decision is kept in a layer
    (r'layer\.routing|\.map_shapes', '.', ()),
    # models are below what looks at them, and analysis is above everything
    (r'^(from|import) mmdet_moe\.'
     '(conversion|hooks|evaluation|visualization|analysis)', 'models', ()),
    *((r'^(from|import) mmdet_moe\.analysis', package, ())
      for package in ('conversion', 'hooks', 'evaluation', 'visualization')),
    # parts of the package are imported by their full names
    (r'^from \.\.\.', '.', ()),
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
