"""The dense twin of the YOLOX-nano configs with experts for seven domains.

    python tools/train.py configs/domains/yolox_nano_domains.py

All but the classifier starts as it was trained on COCO.
"""
_base_ = [
    '../_base_/yolox_nano_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py'
]

# DomainCocoDataset and DomainCocoMetric.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
model = dict(bbox_head=dict(num_classes=len(_base_.metainfo.classes)))
