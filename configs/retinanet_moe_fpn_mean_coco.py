_base_ = './retinanet_moe_fpn_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=None,
            hard_constraint=dict(type='MeanImportance', threshold=0.1))))
