# What every classifier with experts needs beside custom_imports: the hook, and
# as _base_.moe the layer: four experts, two of them active, with the KL loss.
custom_hooks = [dict(type='MoEHook')]

moe = dict(
    num_experts=4, top_k=2, soft_constraint=dict(type='KLLoss', weight=0.5))
