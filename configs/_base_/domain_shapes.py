# The generated shapes as five cameras see them, mixed. They are written by
# tools/dataset_converters/generate_shapes.py --domains. What uses it imports
# mmdet_moe.
_base_ = './shapes.py'

data_root = 'data/domain_shapes/'
train_pipeline = [
    *_base_.train_pipeline[:-1],
    # Not for the detector: DatasetLoss asks for it.
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'flip', 'flip_direction', 'domain'))
]
train_dataloader = dict(
    dataset=dict(
        type='DomainCocoDataset',
        data_root=data_root,
        pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DomainCocoMetric',
    ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
