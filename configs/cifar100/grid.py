"""The paper's study on CIFAR-100: ResNet-18 with one mixture of blocks.

    python tools/sweep.py configs/cifar100/grid.py --seeds 0 1 2

Position p is the last block of stage p, as E experts of which two are run,
plain or with its input added. Thresholds and weights are the paper's. 96
trainings for each seed, and one without experts.
"""
base = './resnet18_moe_cifar100.py'
others = dict(dense='./resnet18_cifar100.py')
_at = 'model.experts.0'
_soft, _hard = f'{_at}.soft_constraint', f'{_at}.hard_constraint'
axes = dict(
    constraint=dict(
        none={_soft: None},
        importance={
            _soft: dict(_delete_=True, type='ImportanceLoss', weight=0.5)
        },
        kl={_soft: dict(_delete_=True, type='KLLoss', weight=0.5)},
        relative={
            _soft: None,
            _hard: dict(type='RelativeImportance', threshold=0.5)
        },
        mean={
            _soft: None,
            _hard: dict(type='MeanImportance', threshold=0.1)
        },
        lossfree={_soft: None, _hard: dict(type='LossFreeBias')}),
    position={
        f'p{p}': {f'{_at}.at': f'backbone.layer{p}.1'} for p in (1, 2, 3, 4)
    },
    experts={f'e{e}': {f'{_at}.num_experts': e} for e in (4, 10)},
    kind=dict(
        plain={f'{_at}.residual': False}, residual={f'{_at}.residual': True}))
