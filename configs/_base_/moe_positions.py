# Experts for objects: after the tower of each subnet a residual mixture of
# feed-forward networks, which decides for each position of each level. What
# counts in the balance are positions with positive anchors, as nearly all
# others are background.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
custom_hooks = [dict(type='MoEHook')]

moe = dict(
    num_experts=8,
    top_k=2,
    scope=dict(type='PositionScope'),
    soft_constraint=dict(type='SwitchLoss', weight=0.01),
    balance_weight='foreground')
