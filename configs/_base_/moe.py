# What every MoE config needs: the registered classes, and the hook that brings
# the soft and hard constraints into training.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
custom_hooks = [dict(type='MoEHook')]

# The paper's layer: four experts, two of them active, balanced by the KL loss.
# A config refers to it as _base_.moe; to change a value from the command line
# name the part of the model, as in model.bbox_head.moe.top_k=3.
moe = dict(
    num_experts=4,
    top_k=2,
    gate=dict(type='GAPFCGate'),
    soft_constraint=dict(type='KLLoss', weight=0.5))
