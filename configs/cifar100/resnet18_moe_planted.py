"""A narrow ResNet-18 with experts on pictures with planted domains.

    python tools/dataset_converters/generate_planted.py data/planted
    python tools/train.py configs/cifar100/resnet18_moe_planted.py

Four domains of five classes each, four experts as the last block: after
training each domain should have experts of its own. A few minutes on a CPU.
"""
_base_ = ['./resnet18_moe_cifar100.py']

model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(num_classes=20, in_channels=128, topk=(1, )),
    data_preprocessor=dict(num_classes=20))
data_root = 'data/planted/'
train_dataloader = dict(
    batch_size=64, num_workers=0, persistent_workers=False,
    dataset=dict(data_root=data_root))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=10, val_interval=5)
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
        convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[7, 9], gamma=0.1)
]
