"""RetinaNet-R50-FPN with experts on data of your own in COCO's format.

A template: copy it, and say where the data is and what its classes are. All
other settings follow from that.

    python tools/train.py configs/retinanet_moe_fpn_own_data.py
"""
_base_ = './retinanet_moe_fpn_coco.py'

data_root = 'data/own/'
metainfo = dict(classes=('cat', 'dog'))
train = dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'))
val = dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'))

own = dict(data_root=data_root, metainfo=metainfo)
model = dict(bbox_head=dict(num_classes=len(metainfo['classes'])))
train_dataloader = dict(dataset=dict(**own, **train))
val_dataloader = test_dataloader = dict(dataset=dict(**own, **val))
objects = dict(ann_file=data_root + val['ann_file'])
val_evaluator = test_evaluator = [
    dict(type='CocoMetric', metric='bbox', **objects),
    dict(type='ExpertAssignmentMetric', **objects)
]
