"""The dense twin of retinanet_moe_fpn_bccd.py: the same without experts."""
_base_ = [
    './_base_/retinanet_r18_fpn_small.py', './_base_/coco_small.py',
    './_base_/schedule_small.py'
]

data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
model = dict(bbox_head=dict(num_classes=3))

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img='images/'),
        metainfo=metainfo))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/'),
        metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
