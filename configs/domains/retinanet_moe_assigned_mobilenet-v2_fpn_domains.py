"""RetinaNet with an expert assigned to each of seven real domains.

    python tools/train.py configs/domains/retinanet_moe_assigned_mobilenet-v2_fpn_domains.py

DatasetLoss tells the gate in training which domain a picture is from: the upper
reference for what retinanet_moe_mobilenet-v2_fpn_domains.py finds by itself.
"""
_base_ = './retinanet_moe_mobilenet-v2_fpn_domains.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=dict(
                _delete_=True,
                type='DatasetLoss',
                experts=dict(
                    aquarium=0,
                    hituav=1,
                    deeppcb=2,
                    tables=3,
                    cards=4,
                    coco=5,
                    bccd=6)))))
