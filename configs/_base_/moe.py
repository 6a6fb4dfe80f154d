# What every MoE config needs: the registered classes and the hook that brings
# the soft and hard constraints into training.
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)
custom_hooks = [dict(type='MoEHook')]
