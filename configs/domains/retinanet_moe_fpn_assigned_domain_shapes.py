"""As retinanet_moe_fpn_domain_shapes.py, with an expert assigned to each camera.

    python tools/train.py configs/domains/retinanet_moe_fpn_assigned_domain_shapes.py

DatasetLoss tells the gate in training which camera a picture is from.
"""
_base_ = './retinanet_moe_fpn_domain_shapes.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            num_experts=5,
            soft_constraint=dict(
                _delete_=True,
                type='DatasetLoss',
                experts=dict(day=0, thermal=1, night=2, fog=3, print=4)))))
