"""Configs with experts, made of others."""
import ast
import os

import other_library
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmdet_moe.conversion.checkpoints import UpcyclingError
from mmdet_moe.conversion.moeify import moeify
from mmdet_moe.conversion.prune import prune_detector
from mmdet_moe.launch import read_config
from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import ConfigError

YOLOX = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
TOWERS = ['bbox_head.multi_level_cls_convs.*']
BASE = """
model = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16,
              num_outs=5),
    bbox_head=dict(type='FCOSHead', num_classes=3, in_channels=16,
                   feat_channels=16, stacked_convs=1,
                   norm_cfg=dict(type='GN', num_groups=4)),
    test_cfg=dict(nms_pre=100, score_thr=0.0, max_per_img=10,
                  nms=dict(type='nms', iou_threshold=0.5)))
custom_imports = dict(imports=['json'])
val_evaluator = [
    dict(type='VOCMetric'),
    dict(type='mmdet.CocoMetric', ann_file='val.json')]
test_evaluator = dict(type='CocoMetric', ann_file='test.json',
                      format_only=True)
"""
CONVS = 'bbox_head.cls_convs.*'


@pytest.fixture
def base(tmp_path):
    path = tmp_path / 'base' / 'fcos.py'
    path.parent.mkdir()
    path.write_text(BASE)
    return path


def make(base, at=(CONVS, ), **options):
    return moeify(read_config(str(base)), str(base), at, **options)


def test_over_a_config_of_mmdetection(tmp_path, monkeypatch):
    command = ['python', 'tools/moeify.py', YOLOX, '--at', *TOWERS]
    out = tmp_path / 'new' / 'moe.py'
    said = make(YOLOX, TOWERS, out=str(out), freeze=True, command=command)
    assert 'bbox_head.multi_level_cls_convs.2 | Sequential' in said
    assert said.endswith(f'{out} written')
    monkeypatch.chdir('/')
    cfg = Config.fromfile(out)
    # MMEngine marks the parts of a base with the package that it is from.
    original = Config.fromstring(f'_base_ = {YOLOX!r}', '.py')
    assert cfg.model.pop('experts') == [
        dict(at=TOWERS, num_experts=4, top_k=2,
             soft_constraint=dict(type='KLLoss'))
    ]
    assert cfg.model.pop('detector') == original.model.type
    assert dict(cfg.model, type='YOLOX') == original.model
    assert [hook['type'] for hook in cfg.custom_hooks[:2]
            ] == ['MoEHook', 'FreezeHook']
    assert cfg.custom_hooks[2:] == original.custom_hooks
    for key in ('val_evaluator', 'test_evaluator'):
        assert cfg[key] == [
            original[key],
            dict(type='ExpertAssignmentMetric',
                 ann_file=original[key].ann_file)
        ]
    assert 'load_from' not in out.read_text()
    text = ast.get_docstring(ast.parse(out.read_text()))
    assert text.endswith('--at \'bbox_head.multi_level_cls_convs.*\'')
    assert all(len(line) < 80 for line in out.read_text().splitlines())


def test_lists_of_the_base_are_kept(base, tmp_path):
    make(base, out=str(tmp_path / 'moe.py'), num_experts=3, top_k=1,
         soft_constraint=['SwitchLoss', 'RouterZLoss'])
    text = (tmp_path / 'moe.py').read_text()
    assert "_base_ = 'base/fcos.py'" in text
    cfg = Config.fromfile(tmp_path / 'moe.py')
    assert cfg.custom_imports.imports == ['mmdet_moe', 'json']
    assert cfg.custom_hooks == [dict(type='MoEHook')]
    assert [metric['type'] for metric in cfg.val_evaluator] == [
        'VOCMetric', 'mmdet.CocoMetric', 'ExpertAssignmentMetric'
    ]
    assert cfg.val_evaluator[2].ann_file == 'val.json'
    assert 'test_evaluator' not in text
    assert cfg.model.experts[0].soft_constraint == [
        dict(type='SwitchLoss'), dict(type='RouterZLoss')
    ]
    assert 'soft_constraint' not in make(base, soft_constraint=())


def test_with_a_checkpoint(base, tmp_path):
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    detector = MODELS.build(read_config(str(base)).model)
    dense = str(tmp_path / 'dense.pth')
    torch.save(dict(state_dict=detector.state_dict()), dense)
    out = tmp_path / 'moe.py'
    said = make(base, out=str(out), checkpoint=dense)
    assert 'losses and outputs equal' in said
    cfg = Config.fromfile(out)
    assert cfg.load_from == str(tmp_path / 'moe.pth')
    MODELS.build(cfg.model).load_state_dict(
        torch.load(cfg.load_from)['state_dict'])

    with pytest.raises(UpcyclingError, match='moe.py is there already'):
        make(base, out=str(out))
    with pytest.raises(UpcyclingError, match='moe.pth is there already'):
        make(base, out=str(tmp_path / 'x.py'), checkpoint=dense,
             checkpoint_out=str(tmp_path / 'moe.pth'))
    with pytest.raises(ConfigError, match='has experts already'):
        make(out)
    del detector.neck
    torch.save(dict(state_dict=detector.state_dict()), dense)
    with pytest.raises(UpcyclingError, match='not of the same detector'):
        make(base, out=str(tmp_path / 'y.py'), checkpoint=dense)
    assert not (tmp_path / 'y.py').exists()


def test_config_of_another_library(tmp_path):
    """Its scope finds MMDetection's types, and ours, with their prefix."""
    from mmengine.registry import METRICS, MODELS, init_default_scope
    init_default_scope('mmdet')  # what another tool of the process left
    path = tmp_path / 'base.py'
    path.write_text(other_library.CONFIG)
    dense = _saved(other_library.SCOPE, path, tmp_path / 'dense.pth')
    make(path, out=str(tmp_path / 'moe.py'), checkpoint=dense)
    init_default_scope('mmdet')
    prune_detector(Config.fromfile(tmp_path / 'moe.py'),
                   str(tmp_path / 'moe.py'), str(tmp_path / 'moe.pth'),
                   str(tmp_path / 'pruned.pth'), {f'{CONVS[:-1]}0': [3]})
    cfg = Config.fromfile(tmp_path / 'pruned.py')
    assert cfg.model.type == 'mmdet.MoEDetector'
    init_default_scope(other_library.SCOPE)
    pruned = MODELS.build(cfg.model)
    assert type(pruned.bbox_head) is other_library.OtherHead
    assert [len(layer.experts) for layer in moe_layers(pruned).values()] == [3]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator[1].ann_file == 'val.json'
        assert METRICS.get(evaluator[1].type) is not None
        assert evaluator[1].type == 'mmdet.ExpertAssignmentMetric'


def _saved(scope, config, path):
    """A checkpoint of the detector of a config."""
    from mmengine.registry import MODELS, init_default_scope
    init_default_scope(scope)
    detector = MODELS.build(read_config(str(config)).model)
    torch.save(dict(state_dict=detector.state_dict(), meta={}), path)
    return str(path)


@pytest.mark.parametrize('change, options, message', [
    ('', dict(at=['bbox_head.towers.*']), "at='bbox_head.towers"),
    ('', dict(soft_constraint=['Loss']), "soft_constraint.type='Loss'"),
    ('', dict(top_k=9), 'top_k=9'),
    ('', dict(noise=-1), 'noise=-1'),
    ('', dict(checkpoint='dense.pth'), 'checkpoint_out=None'),
    ('', dict(checkpoint_out='moe.pth'), "checkpoint_out='moe.pth'"),
    ('model = None', {}, 'model.type=None'),
    ('model.update(detector=dict())', {}, 'model.detector='),
    ("model['neck'].update(type='MoEFPN', moe=dict())", {},
     'has experts already: neck.fpn_convs.0.conv'),
])
def test_what_is_refused(base, tmp_path, change, options, message):
    base.write_text(f'{BASE}{change}\n')
    with pytest.raises(ConfigError) as error:
        make(base, **options)
    assert message in str(error.value)
    assert os.listdir(tmp_path) == ['base']


def test_a_package_that_is_not_there():
    with pytest.raises(Exception, match='no_such_package is not installed'):
        read_config('no_such_package::a.py')


def test_a_wrapper_gives_experts_to_the_detector_inside(base, tmp_path):
    base.write_text(BASE + """
model = dict(type='ByteTrack', detector=model,
             tracker=dict(type='ByteTracker'))
""")
    out = tmp_path / 'moe.py'
    make(base, out=str(out))
    model = Config.fromfile(out).model
    assert model.type == 'ByteTrack' and 'experts' not in model
    assert model.detector.type == 'MoEDetector'
    assert model.detector.detector == 'FCOS'
    assert model.detector.experts[0]['at'] == [CONVS]
    MODELS.build(model.detector)
    with pytest.raises(ConfigError, match="checkpoint='dense.pth'.*ByteTrack"):
        make(base, checkpoint='dense.pth', out=str(tmp_path / 'x.py'))


@pytest.mark.parametrize('ann_file, added', [
    ('val.json', True), ('other.json', False)])
def test_only_for_annotations_that_are_loaded(base, ann_file, added):
    base.write_text(BASE + f"""
val_dataloader = dict(dataset=dict(type='CocoDataset', data_root='',
                                   ann_file='{ann_file}'))
""")
    assert ('ExpertAssignmentMetric' in make(base)) == added


def test_configs_that_the_index_does_not_list():
    name = 'mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py'
    assert read_config(name).model.type == 'FasterRCNN'
    text = make(name, ['roi_head.bbox_head.shared_fcs.0'])
    assert Config.fromstring(text[text.index('"""Faster'):], '.py'
                             ).model.detector == 'FasterRCNN'


def test_a_norm_that_needs_a_group_of_processes(base, tmp_path):
    """MMSyncBN, as in simple_copy_paste, with a checkpoint."""
    cfg = Config.fromfile(base)
    cfg.model.backbone.norm_cfg = dict(type='MMSyncBN')
    plain = MODELS.build(Config.fromfile(base).model)
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'dense.pth')
    text = moeify(cfg, str(base), ['bbox_head.cls_convs.*.conv'],
                  out=str(tmp_path / 'moe.py'),
                  checkpoint=str(tmp_path / 'dense.pth'))
    assert 'losses and outputs equal' in text
    assert cfg.model.backbone.norm_cfg.type == 'MMSyncBN'
