# The generated shapes: five classes, 256 x 192 pixels. They are written by
# tools/dataset_converters/generate_shapes.py.
_base_ = './coco_small.py'

data_root = 'data/shapes/'
metainfo = dict(classes=('disc', 'square', 'triangle', 'cross', 'ring'))

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
