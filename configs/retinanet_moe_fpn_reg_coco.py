_base_ = './retinanet_moe_fpn_coco.py'

model = dict(bbox_head=dict(moe_in=('reg', )))
