import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs

from mmdet_moe.layers import moe_layers, upcycle


def build(cfg, **head):
    model = cfg.model.copy()
    model['bbox_head'] = dict(cfg.model.bbox_head, **head)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector


def batch(detector):
    inputs = demo_mm_inputs(
        2, [[3, 96, 128], [3, 128, 96]], num_classes=5, num_items=[4, 3])
    return detector.data_preprocessor(inputs, training=True)


PLACES = [
    dict(moe_in='cls'),
    dict(moe_in='reg'),
    dict(),
    dict(shared_gate=True),
    dict(mix='prob'),
    dict(shared_gate=True, mix='prob'),
    dict(moe_at='tower'),
    dict(moe_at='first'),
    dict(moe_at='last', moe_in='reg'),
    dict(moe_at='predictor'),
    dict(moe_at='every'),
    dict(moe=dict(scope=dict(type='ImageScope'))),
    dict(moe=dict(scope=dict(type='ImageScope')), moe_at='every'),
    dict(moe=dict(scope=dict(type='PatchScope', grid=3)), norm_cfg=None),
    dict(moe=dict(scope=dict(type='PatchScope', grid=2)),
         norm_cfg=None, moe_at='every'),
    dict(moe_at='block', block=dict(identity_at_start=True)),
    dict(moe_at='block', block=dict(expert='conv', identity_at_start=True)),
]


@pytest.mark.parametrize('head', PLACES, ids=str)
def test_copies_of_the_dense_subnet_are_the_dense_detector(load_config, head):
    plain = {k: v for k, v in head.items() if k == 'norm_cfg'}
    dense = build(load_config('retinanet_fpn_shapes'), **plain)
    moe = build(load_config('retinanet_moe_fpn_shapes'), **head)
    report = upcycle(moe, dense.state_dict())
    assert report.matches, report
    assert all('gate' in key or '_block.' in key for key in report.new)
    data = batch(dense)
    losses = [
        {k: torch.stack(v) for k, v in m(**data, mode='loss').items()}
        for m in (dense.train(), moe.train())
    ]
    assert losses[0].keys() == losses[1].keys()
    for key in losses[0]:
        assert torch.allclose(losses[0][key], losses[1][key], rtol=1e-5)

    found = []
    for detector in (dense.eval(), moe.eval()):
        # The scores lie around the prior of 0.01.
        detector.bbox_head.test_cfg.score_thr = 0.005
        with torch.no_grad():
            found.append(detector(**batch_again(data), mode='predict'))
    for a, b in zip(*found):
        a, b = a.pred_instances, b.pred_instances
        assert len(a) == len(b) > 20
        # Rounding may swap scores that are nearly the same, so as sets.
        rows = [
            torch.cat([x.bboxes, 100 * x.labels[:, None], x.scores[:, None]],
                      dim=1) for x in (a, b)
        ]
        distance = (rows[0][:, None] - rows[1][None]).abs().amax(dim=-1)
        assert distance.amin(dim=0).max() < 1e-2
        assert distance.amin(dim=1).max() < 1e-2


def batch_again(data):
    return dict(
        inputs=data['inputs'],
        data_samples=[s.clone() for s in data['data_samples']])


@pytest.mark.parametrize('head', [dict(), dict(moe_at='every')])
def test_importance_by_foreground(load_config, head):
    """Only the level and image with the one object count."""
    detector = build(load_config('retinanet_moe_fpn_shapes'),
                     moe=dict(num_experts=3, top_k=2,
                              balance_weight='foreground',
                              soft_constraint=dict(type='KLLoss')), **head)
    data = batch(detector)
    first, second = data['data_samples']
    # Of the anchors' sides (see above) only those of level 1, 32 to 51, have
    # an overlap of half or more with a square of 40.
    first.gt_instances = first.gt_instances[:1]
    first.gt_instances.bboxes = torch.tensor([[40.0, 24, 80, 64]])
    second.gt_instances = second.gt_instances[:0]
    detector.train()
    detector(**data, mode='loss')
    for layer in moe_layers(detector).values():
        call = layer.recorder.calls[0]
        counts = call.counts.view(5, 2)
        assert counts[1, 0] > 0 and counts.sum() == counts[1, 0]
        weights = call.decision.weights.view(5, 2, 3)[1, 0]
        assert torch.allclose(layer.collect().importance, weights)


def test_priors_and_gates_after_initialisation(load_config):
    head = build(load_config('retinanet_moe_fpn_shapes')).bbox_head
    for predictor in head.cls_predictors:
        # -log((1 - 0.01) / 0.01)
        assert torch.allclose(predictor.bias, torch.tensor(-4.5951), atol=1e-4)
    first, second = (e[0].conv.weight for e in head.reg_subnet.experts[:2])
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.01, rel=0.05)
    # uniform in +-1/8 for 64 channels: 0.072, far from the 0.01 of predictors
    assert head.cls_subnet.gate.fc_weight.std().item() > 0.05


@pytest.mark.parametrize('options, message', [
    (dict(moe_in=()), r'moe_in=\(\): .*\'cls\', \'reg\''),
    (dict(moe_in='mask'), 'moe_in'),
    (dict(moe=dict(num_expert=4)), 'moe.num_expert=4: .*num_experts'),
    (dict(moe=dict(expert=None)), 'moe.expert'),
    (dict(moe_in=[['cls']]), 'moe_in'),
    (dict(norm_cfg=dict(type='SyncBN')), "norm='SyncBN'"),
    (dict(moe=4), 'moe=4: allowed is a dict'),
    (dict(moe=dict(num_experts=2, top_k=3)), 'top_k=3'),
])
def test_bad_options(load_config, options, message):
    with pytest.raises(ValueError, match=message):
        build(load_config('retinanet_moe_fpn_shapes'), **options)
