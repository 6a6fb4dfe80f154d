"""The dense twin of faster-rcnn_moe_mobilenet-v2_fpn_domains.py."""
_base_ = [
    '../_base_/faster-rcnn_mobilenet-v2_fpn_small.py',
    '../_base_/domains.py', '../_base_/schedule_6_epochs.py'
]

# DomainCocoDataset and DomainCocoMetric.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=len(_base_.metainfo.classes))))
