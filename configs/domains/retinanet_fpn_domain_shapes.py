"""The dense twin of retinanet_moe_fpn_domain_shapes.py."""
_base_ = [
    '../_base_/retinanet_r18_fpn_shapes.py', '../_base_/domain_shapes.py',
    '../_base_/schedule_6_epochs.py'
]

# DomainCocoDataset and DomainCocoMetric.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
