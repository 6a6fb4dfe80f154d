"""The examples of the guide: they are run as they are printed."""
import copy
import re
from pathlib import Path

import pytest
import stock
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmdet_moe.detection import provenance
from mmdet_moe.layers import GATES, SCOPES, MoELayer, moe_layers, traced
from mmdet_moe.names import weights_field

ROOT = Path(__file__).parents[1]
MARK = '<!-- run in tests/test_docs.py -->\n```python\n'
FFN = 'roi_head.bbox_head.1.ffn'


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """What the marked blocks of the guide define."""
    monkeypatch.setattr(provenance, 'PROVENANCES',
                        list(provenance.PROVENANCES))
    names = {'__name__': 'example'}
    for part in (ROOT / 'docs' / 'guide.md').read_text().split(MARK)[1:]:
        exec(part.split('```')[0], names)
    yield names
    GATES.pop('MaxPoolGate'), SCOPES.pop('HalfScope')


def convolutions(**options):
    expert = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    layer = MoELayer(lambda: copy.deepcopy(expert), 4, num_experts=3,
                     top_k=2, **options)
    for parameter in layer.experts.parameters():
        nn.init.normal_(parameter)
    return layer.eval()


def test_a_gate_of_ones_own():
    layer = convolutions(gate=dict(type='MaxPoolGate'))
    x = torch.randn(5, 4, 6, 7)
    logits = layer.decide([x]).routing.logits
    assert torch.allclose(logits, x.amax(dim=(2, 3)) @ layer.gate.fc_weight.T)


def test_a_scope_of_ones_own_computes_what_the_dense_dispatch_does():
    layer = convolutions(scope=dict(type='HalfScope'))
    dense = convolutions(scope=dict(type='HalfScope'), dispatch='dense')
    dense.load_state_dict(layer.state_dict())
    levels = [torch.randn(2, 4, 5, 8), torch.randn(2, 4, 3, 5),
              torch.randn(2, 4, 2, 1)]
    for x, a, b in zip(levels, layer(levels), dense(levels)):
        assert a.shape == (2, 2, *x.shape[2:])
        assert torch.allclose(a, b, atol=1e-6)


def test_a_scope_of_ones_own_finds_the_half_of_a_box():
    layer = convolutions(scope=dict(type='HalfScope'))
    x, y = torch.randn(3, 4, 5, 8), torch.randn(3, 4, 3, 5)
    with traced(layer) as decisions:
        layer([x, y])
    decision = decisions[''][0].part(1, 2, levels=(0, 1), extent=(40, 64))
    # Picture 1, with two levels of two halves. The middle of level 0 is at
    # 32 pixels; the left half of level 1 has 3 of 5 columns, up to 38.4.
    boxes = torch.tensor([[0., 0, 10, 10], [30, 0, 42, 40], [30, 0, 42, 40],
                          [36, 0, 44, 40]])
    found = decision.find(boxes, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == [0, 1, 2, 3]
    gate = layer.gate(layer.gate.features(x[1:2, ..., 4:]))
    assert torch.equal(decision.routing.logits[1], gate[0])
    assert decision.grid(0).tolist() == [[0] * 4 + [1] * 4] * 5
    areas = layer.scope.total([torch.ones(1, 5, 8), torch.ones(1, 3, 5)])
    assert areas.tolist() == [20, 20, 9, 6]


def sparse_rcnn():
    """A small Sparse R-CNN with two stages and experts in both."""
    model = Config.fromfile(
        stock.CONFIGS / 'sparse_rcnn' / 'sparse-rcnn_r50_fpn_1x_coco.py').model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64])
    model.rpn_head.num_proposals = 20
    roi = model.roi_head
    roi.update(num_stages=2, stage_loss_weights=[1, 1],
               bbox_head=roi.bbox_head[:2])
    for head in roi.bbox_head:
        head.update(num_classes=5, feedforward_channels=32)
    model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    model.test_cfg.rcnn.max_per_img = 30
    return stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at='roi_head.bbox_head.*.ffn', num_experts=3)]))


def test_a_detector_of_ones_own(example):
    detector = sparse_rcnn()
    source = detector.decision_reporter.provenance
    assert isinstance(source, example['SparseProvenance'])
    stages = []
    detector.roi_head.bbox_head[1].register_forward_hook(
        lambda *call: stages.append(call[2][0].sigmoid()))
    inputs, samples = stock.pictures()
    with torch.no_grad():
        found = detector(inputs, samples, mode='predict')
    for scores, sample in zip(stages[0], found):
        instances = sample.pred_instances
        # the query that is named has predicted the detection's score
        assert torch.equal(instances.scores,
                           scores[instances.item_ids, instances.labels])
        assert torch.equal(
            instances[weights_field(FFN)],
            sample.decisions[FFN].weights[instances.item_ids])


def test_links_lead_somewhere():
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]:
        for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
            if target.startswith('http'):
                continue
            file, _, anchor = target.partition('#')
            file = (page.parent / file).resolve() if file else page
            assert file.exists(), f'{page.name}: {target}'
            if anchor:
                assert anchor in anchors(file), f'{page.name}: {target}'


def anchors(page: Path) -> set:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.S)
    return {
        re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        for title in re.findall(r'^#+ (.+)$', text, flags=re.M)
    }


def test_the_configs_of_classifiers(tmp_path):
    """Read, built and checked as they are printed."""
    pytest.importorskip('mmpretrain')
    from mmdet_moe.classification.checks import check_config
    from mmdet_moe.launch import read_config
    parts = (ROOT / 'docs' / 'classification.md').read_text().split(MARK)[1:]
    assert len(parts) == 2
    for i, part in enumerate(parts):
        path = tmp_path / f'{i}.py'
        path.write_text(part.split('```')[0].replace('../', f'{ROOT}/'))
        cfg = read_config(str(path))
        assert cfg.default_scope == 'mmpretrain'
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model)
        assert list(moe_layers(model)) == ['backbone.layer4.1']
    for part in ('train', 'test'):
        folder = tmp_path / part
        for n in range(20):
            (folder / f'ground{n % 4}' / f'class{n}').mkdir(parents=True)
            (folder / f'ground{n % 4}' / f'class{n}' / '0.jpg').touch()
        cfg[f'{part}_dataloader'].dataset.data_root = str(folder)
    check_config(cfg, ('train', 'test'))
