"""YOLOX-nano with an expert assigned to each of seven real domains.

    python tools/train.py configs/domains/yolox_moe_assigned_nano_domains.py

DatasetLoss tells the gate in training which domain a picture is from: the upper
reference for what yolox_moe_nano_domains.py finds by itself.
"""
_base_ = './yolox_moe_nano_domains.py'

experts = [
    dict(
        _base_.model.experts[0],
        soft_constraint=dict(
            type='DatasetLoss',
            experts=dict(
                aquarium=0,
                hituav=1,
                deeppcb=2,
                tables=3,
                cards=4,
                coco=5,
                bccd=6)))
]
model = dict(experts=experts)
