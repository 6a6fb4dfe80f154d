"""Constraints on pictures with planted domains: minutes for each run.

    python tools/dataset_converters/generate_planted.py data/planted
    python tools/sweep.py configs/cifar100/grid_planted.py --seeds 0 1 2
"""
_base_ = ['./grid.py']

base = './resnet18_moe_planted.py'
others = dict(_delete_=True)
_at = 'model.experts.0'
axes = dict(
    constraint=dict(
        load={
            f'{_at}.noise': True,
            f'{_at}.soft_constraint': [
                dict(type='ImportanceLoss', weight=0.1),
                dict(type='LoadLoss', weight=0.1)
            ]
        },
        switch={
            f'{_at}.soft_constraint':
            dict(_delete_=True, type='SwitchLoss', weight=0.1)
        }),
    position=dict(_delete_=True, p4={}),
    experts=dict(_delete_=True, e4={}),
    kind=dict(_delete_=True, plain={}))
