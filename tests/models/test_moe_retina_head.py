import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs


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


def copy_dense_into_experts(dense, moe):
    moe.load_state_dict(dense.state_dict(), strict=False)
    for name, layer in moe.bbox_head.moe_subnets.items():
        head = dense.bbox_head
        subnet = torch.nn.Sequential(*getattr(head, f'{name}_convs'),
                                     getattr(head, f'retina_{name}'))
        for expert in layer.experts:
            expert.load_state_dict(subnet.state_dict())


@pytest.mark.parametrize('moe_in', [('cls', ), ('reg', ), ('cls', 'reg')])
def test_copies_of_the_dense_subnet_are_the_dense_detector(
        load_config, moe_in):
    dense = build(load_config('retinanet_fpn_shapes'))
    moe = build(load_config('retinanet_moe_fpn_shapes'), moe_in=moe_in)
    copy_dense_into_experts(dense, moe)
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
        # Untrained scores lie around the prior of 0.01.
        detector.bbox_head.test_cfg.score_thr = 0.005
        with torch.no_grad():
            found.append(detector(**batch_again(data), mode='predict'))
    for a, b in zip(*found):
        a, b = a.pred_instances, b.pred_instances
        assert len(a) == len(b) > 20
        assert torch.allclose(a.scores, b.scores, rtol=1e-5)
        assert torch.allclose(a.bboxes, b.bboxes, atol=1e-2)
        assert torch.equal(a.labels, b.labels)


def batch_again(data):
    return dict(
        inputs=data['inputs'],
        data_samples=[s.clone() for s in data['data_samples']])


def test_predictions_carry_level_and_experts(load_config):
    detector = build(load_config('retinanet_moe_fpn_shapes')).eval()
    head = detector.bbox_head
    head.test_cfg.score_thr = 0.005
    with torch.no_grad():
        samples = detector(**batch(detector), mode='predict')
    for b, sample in enumerate(samples):
        found = sample.pred_instances
        assert set(found.level_ids.tolist()) <= set(range(5))
        for name, layer in head.moe_subnets.items():
            weights = layer.routing.weights.view(5, 2, 4)[:, b]
            assert torch.equal(sample.expert_weights[name], weights)
            assert torch.equal(found[f'{name}_expert_weights'],
                               weights[found.level_ids])


def test_levels_of_detections_and_objects(load_config):
    """A box of an anchor's shape belongs to the level of that anchor."""
    detector = build(load_config('retinanet_moe_fpn_shapes')).eval()
    data = batch(detector)
    sample = data['data_samples'][0]
    # Square anchors have sides stride * 2 * (1, 2^(1/3), 2^(2/3)), so 16 to
    # 25 pixels on level 0, 32 to 51 on level 1, 64 to 102 on level 2.
    sides = torch.tensor([16.0, 40, 64])
    centre = torch.tensor([60.0, 44, 64])
    sample.gt_instances = sample.gt_instances[:3]
    sample.gt_instances.bboxes = torch.stack(
        (centre - sides / 2, centre - sides / 2, centre + sides / 2,
         centre + sides / 2), dim=1)
    sample.gt_instances.labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        sample = detector(**data, mode='predict')[0]
    assert sample.gt_instances.level_ids.tolist() == [0, 1, 2]


def test_priors_and_gates_after_initialisation(load_config):
    head = build(load_config('retinanet_moe_fpn_shapes')).bbox_head
    for predictor in head.cls_predictors:
        # -log((1 - 0.01) / 0.01)
        assert torch.allclose(predictor.bias, torch.tensor(-4.5951), atol=1e-4)
    first, second = (e[0].conv.weight for e in head.reg_subnet.experts[:2])
    assert not torch.equal(first, second)
    assert first.std().item() == pytest.approx(0.01, rel=0.05)
    # uniform in +-1/8 for 64 channels: 0.072, far from the 0.01 of predictors
    assert head.cls_subnet.gate.weight.std().item() > 0.05


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
