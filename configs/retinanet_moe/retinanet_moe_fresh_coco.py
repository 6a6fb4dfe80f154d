"""New experts rather than copies of the dense subnets."""
_base_ = './retinanet_moe_both_kl_coco.py'

# The rest of the detector is loaded from the dense checkpoint.
load_from = _base_.dense
model = dict(init_cfg=None, backbone=dict(init_cfg=None))
