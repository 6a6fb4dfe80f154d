from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_moe.conversion import UpcycleInit
from mmdet_moe.conversion.checkpoints import UpcyclingError
from mmdet_moe.conversion.dense_twin import dense_twin
from mmdet_moe.conversion.upcycle import upcycle_detector
from mmdet_moe.layers import moe_layers


@pytest.fixture(scope='module')
def dense(load_config, tmp_path_factory):
    """A checkpoint of the dense detector for shapes, as MMEngine saves it."""
    detector = MODELS.build(load_config('retinanet_fpn_shapes').model)
    detector.init_weights()
    path = tmp_path_factory.mktemp('dense') / 'dense.pth'
    torch.save(
        dict(
            state_dict=detector.state_dict(),
            meta=dict(dataset_meta=dict(classes=('disc', )))), path)
    return path


def moe_config(load_config, **head):
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.model.bbox_head.update(head)
    return cfg


def test_the_dense_twin_of_a_config(load_config):
    model = moe_config(
        load_config, moe_at='first', conv_cfg=dict(type='MoEConv', top_k=1)
    ).model
    model.backbone.update(type='MoEResNet', moe=dict(), moe_unit='stage')
    model.neck = [dict(model.neck, type='MoEFPN', moe=dict(top_k=1))]
    twin = dense_twin(model)
    expected = load_config('retinanet_fpn_shapes').model
    expected.neck = [expected.neck]
    expected.bbox_head.conv_cfg = dict(type='Conv2d')
    assert twin == expected


@pytest.mark.parametrize('head', [dict(), dict(moe_in='reg', moe_at='first')])
def test_the_written_checkpoint(load_config, dense, tmp_path, head):
    cfg = moe_config(load_config, **head)
    out = tmp_path / 'new' / 'moe.pth'
    said = upcycle_detector(cfg, str(dense), str(out), noise=0.0)
    assert 'losses and outputs equal' in said
    content = torch.load(out)
    assert content['meta']['dataset_meta']['classes'] == ('disc', )
    detector = MODELS.build(cfg.model)
    detector.load_state_dict(content['state_dict'])
    for layer in moe_layers(detector).values():
        states = [list(e.state_dict().values()) for e in layer.experts]
        assert all(map(torch.equal, states[0], states[3]))
    with pytest.raises(UpcyclingError, match='moe.pth is there already'):
        upcycle_detector(cfg, str(dense), str(out))

    upcycle_detector(cfg, str(dense), str(tmp_path / 'n.pth'), noise=0.1)
    noisy = torch.load(tmp_path / 'n.pth')['state_dict']
    for key, value in content['state_dict'].items():
        if 'experts' in key:  # where all entries are equal there is no scale
            assert torch.equal(value, noisy[key]) == (value.std() == 0), key


def test_through_the_config(load_config, dense):
    cfg = moe_config(load_config)
    cfg.model.init_cfg = dict(type='Upcycle', checkpoint=str(dense), noise=0.0)
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    state = torch.load(dense)['state_dict']
    for e in range(4):
        assert torch.equal(
            detector.bbox_head.cls_subnet.experts[e][0].conv.weight,
            state['bbox_head.cls_convs.0.conv.weight'])
    assert torch.equal(detector.backbone.conv1.weight,
                       state['backbone.conv1.weight'])


def test_left_out_where_a_checkpoint_is_loaded_anyway(load_config):
    cfg = moe_config(load_config)
    cfg.model.init_cfg = [dict(type='Upcycle', checkpoint='gone.pth')]
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint='gone_too.pth')
    detector = MODELS.build(cfg.model)
    assert UpcycleInit.leave_out(detector) == ['gone.pth']
    before = detector.backbone.conv1.weight.clone()
    detector.init_weights()
    assert torch.equal(before, detector.backbone.conv1.weight)
    assert UpcycleInit.leave_out(detector) == []


@pytest.mark.parametrize('change, named', [
    (lambda model: model.bbox_head.update(num_classes=7),
     'cls_subnet.experts.0.2.weight: (63, 64, 3, 3), in the checkpoint (45'),
    (lambda model: model.bbox_head.update(stacked_convs=3),
     'reg_subnet.experts.3.2.conv.weight (dense: bbox_head.reg_convs.2.conv'),
    (lambda model: model.bbox_head.update(stacked_convs=1),
     '  bbox_head.cls_convs.1.conv.weight'),
    (lambda model: model.backbone.update(depth=34), 'backbone.layer1.2.conv1'),
    (lambda model: model.backbone.update(
        type='MoEResNet', moe=dict(), residual=True), 'residual=False'),
])
def test_another_architecture(load_config, dense, tmp_path, change, named):
    cfg = moe_config(load_config)
    change(cfg.model)
    out = tmp_path / 'moe.pth'
    with pytest.raises(UpcyclingError, match='not of the same det') as error:
        upcycle_detector(cfg, str(dense), str(out))
    assert named in str(error.value)
    cfg.model.init_cfg = dict(type='Upcycle', checkpoint=str(dense))
    with pytest.raises(UpcyclingError, match='not of the same detector'):
        MODELS.build(cfg.model).init_weights()
    assert not out.exists()


def test_a_config_without_experts(load_config, dense, tmp_path):
    with pytest.raises(UpcyclingError, match='no MoE layer'):
        upcycle_detector(load_config('retinanet_fpn_shapes'), str(dense),
                         str(tmp_path / 'x.pth'))


def test_a_copy_that_is_not_the_dense_detector(load_config, dense, tmp_path,
                                               monkeypatch):
    """The check itself: one expert differs by a little."""
    import mmdet_moe.conversion.upcycle as module
    load = module.load_dense

    def broken(model, state, checkpoint):
        report = load(model, state, checkpoint)
        model.bbox_head.reg_subnet.experts[1][2].bias.data += 0.1
        model.bbox_head.reg_subnet.experts[0][2].bias.data += 0.1
        model.bbox_head.reg_subnet.experts[2][2].bias.data += 0.1
        return report

    monkeypatch.setattr(module, 'load_dense', broken)
    with pytest.raises(UpcyclingError, match='not the dense one: .* differs'):
        upcycle_detector(
            moe_config(load_config), str(dense), str(tmp_path / 'x.pth'))


def test_a_two_stage_detector(tmp_path):
    """Experts in the neck of another detector, which samples at random."""
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent / '.mim' / 'configs' / '_base_' /
        'models' / 'faster-rcnn_r50_fpn.py')
    cfg.model.backbone.update(
        depth=18, base_channels=16, stem_channels=16, init_cfg=None)
    cfg.model.neck.update(in_channels=[16, 32, 64, 128])
    detector = MODELS.build(cfg.model)
    torch.save(dict(state_dict=detector.state_dict()), tmp_path / 'dense.pth')
    cfg.model.neck.update(type='MoEFPN', moe=dict())
    said = upcycle_detector(cfg, str(tmp_path / 'dense.pth'),
                            str(tmp_path / 'moe.pth'))
    assert 'losses and outputs equal' in said
