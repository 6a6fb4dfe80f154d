"""The dense twin of the MoE configs for seven real domains."""
_base_ = [
    '../_base_/retinanet_mobilenet-v2_fpn_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py'
]

# DomainCocoDataset and DomainCocoMetric.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
model = dict(bbox_head=dict(num_classes=len(_base_.metainfo.classes)))
