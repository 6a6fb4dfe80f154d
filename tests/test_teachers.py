"""Detectors with a teacher: semi-supervised training, and distillation."""
import copy
from contextlib import nullcontext

import detectors
import stock
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmdet_moe.layers import moe_layers
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import weights_field

OBJECTS = [[[8, 8, 40, 40], [30, 20, 90, 80]], [[4, 4, 24, 20]]]
BRANCHES = 'sup', 'unsup_teacher', 'unsup_student'


def soft_teacher(predict_on='teacher'):
    """Of Faster R-CNN with experts of regions; and what it is trained on."""
    detector = stock.stock('faster_rcnn')
    detector.update(
        type='MoEDetector', detector='FasterRCNN',
        experts=[dict(at='roi_head.bbox_head.shared_fcs.1', num_experts=4,
                      soft_constraint=dict(type='ImportanceLoss'))])
    preprocessor = detector.pop('data_preprocessor')
    inputs, samples = stock.pictures(OBJECTS)
    for sample in samples:
        sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    data = dict(
        inputs={branch: list(inputs) for branch in BRANCHES},
        data_samples={
            branch: copy.deepcopy(samples) for branch in BRANCHES})
    return ConfigDict(
        type='SoftTeacher',
        detector=detector,
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor',
            data_preprocessor=preprocessor),
        semi_train_cfg=dict(
            freeze_teacher=True, sup_weight=1.0, unsup_weight=4.0,
            pseudo_label_initial_score_thr=0.0, rpn_pseudo_thr=0.0,
            cls_pseudo_thr=0.0, reg_pseudo_thr=1.0, jitter_times=2,
            jitter_scale=0.06, min_pseudo_bbox_wh=(1e-2, 1e-2)),
        semi_test_cfg=dict(predict_on=predict_on)), data


def train(model, data, folder, hooks=()):
    runner = Runner(
        MODELS.build(model),
        work_dir=str(folder),
        train_dataloader=DataLoader([data] * 3, collate_fn=lambda x: x[0]),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01),
                           clip_grad=dict(max_norm=1)),
        custom_hooks=[dict(type='MoEHook'), *hooks],
        default_scope='mmdet',
        experiment_name=str(folder))
    runner.train()
    return runner


def test_a_mean_teacher_with_experts(tmp_path):
    model, data = soft_teacher()
    runner = train(model, data, tmp_path, [
        dict(type='MeanTeacherHook', momentum=0.1)])
    layers = moe_layers(runner.model)
    scalars = runner.message_hub.log_scalars
    student, teacher = (f'{who}.roi_head.bbox_head.shared_fcs.1'
                        for who in ('student', 'teacher'))
    assert set(layers) == {student, teacher}
    assert f'train/moe.{student}.importance_0' in scalars
    assert not [key for key in scalars if teacher in key]
    inputs, samples = stock.pictures(OBJECTS)
    runner.model.eval()
    with torch.no_grad():
        found = runner.model(inputs, samples, mode='predict')
    for sample in found:
        assert set(sample.decisions) == {teacher}
        weights = sample.pred_instances[weights_field(teacher)]
        assert len(weights) and weights.sum(dim=1).allclose(torch.ones(1))
        assert 'not used in prediction' in sample.undecided[student]


def test_the_student_predicts_and_nothing_reports_twice():
    model = MODELS.build(soft_teacher('student')[0]).eval()
    inputs, samples = stock.pictures(OBJECTS)
    report_decisions(model)
    report_decisions(model)  # once is enough
    watched = []
    source = model.student.decision_reporter.provenance
    source.watch = lambda: watched.append(1) or nullcontext()
    with torch.no_grad(), model.decision_reporter.paused():
        quiet = model(inputs, samples, mode='predict')
    assert not watched and 'decisions' not in quiet[0]
    with torch.no_grad():
        found = model(inputs, samples, mode='predict')
    assert not watched
    assert set(found[0].decisions) == {
        'student.roi_head.bbox_head.shared_fcs.1'}


def test_distillation_into_experts_from_a_teacher_with_experts(tmp_path):
    teacher = detectors.small(detectors.HEADS['gfl'])
    options = dict(
        type='MoEDetector',
        experts=[dict(at='bbox_head.cls_convs.0', num_experts=3)])
    student = copy.deepcopy(teacher)
    student.update(
        options, detector='KnowledgeDistillationSingleStageDetector',
        teacher_config=dict(model=ConfigDict(
            teacher, **options, detector='GFL')))
    student.bbox_head.update(type='LDHead', loss_ld=dict(
        type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10))
    inputs, samples = stock.pictures(OBJECTS)
    runner = train(student, dict(inputs=list(inputs), data_samples=samples),
                   tmp_path)
    teacher = runner.model.teacher_model
    assert not teacher.training
    scalars = runner.message_hub.log_scalars
    assert scalars['train/loss_ld'].current() > 0
    assert [key for key in scalars if key.startswith('train/moe.')] == [
        f'train/moe.bbox_head.cls_convs.0.{what}_{e}'
        for what in ('importance', 'share') for e in range(3)]
