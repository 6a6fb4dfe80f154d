# Seven real domains, mixed. docs/datasets.md says where they are from. The
# longer side of a picture is 320 pixels. What uses this imports mmdet_moe.
_base_ = './coco_small.py'

classes_of = dict(
    aquarium=(
        'fish', 'jellyfish', 'penguin', 'puffin', 'shark', 'starfish',
        'stingray'),
    hituav=(
        'Person', 'Car', 'Bicycle', 'OtherVehicle'),
    deeppcb=(
        'open', 'short', 'mousebite', 'spur', 'copper', 'pin-hole'),
    tables=(
        'table', ),
    cards=(
        'nine', 'ten', 'jack', 'queen', 'king', 'ace'),
    coco=(
        'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus',
        'train', 'truck', 'boat', 'traffic light', 'fire hydrant',
        'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
        'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe',
        'backpack', 'umbrella', 'handbag', 'tie', 'suitcase', 'frisbee',
        'skis', 'snowboard', 'sports ball', 'kite', 'baseball bat',
        'baseball glove', 'skateboard', 'surfboard', 'tennis racket',
        'bottle', 'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl',
        'banana', 'apple', 'sandwich', 'orange', 'broccoli', 'carrot',
        'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch',
        'potted plant', 'bed', 'dining table', 'toilet', 'tv', 'laptop',
        'mouse', 'remote', 'keyboard', 'cell phone', 'microwave', 'oven',
        'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase',
        'scissors', 'teddy bear', 'hair drier', 'toothbrush'),
    bccd=(
        'RBC', 'WBC', 'Platelets'))
metainfo = dict(
    classes=tuple(f'{domain}:{name}' for domain, names in classes_of.items()
                  for name in names))

data_root = 'data/domains/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    # The domain is not for the detector: DatasetLoss asks for it.
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor', 'flip', 'flip_direction', 'domain'))
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 320), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    dataset=dict(
        type='DomainCocoDataset',
        data_root=data_root,
        ann_file='annotations/train.json',
        data_prefix=dict(img=''),
        metainfo=metainfo,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/val.json',
        data_prefix=dict(img=''),
        metainfo=metainfo,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='DomainCocoMetric', ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
