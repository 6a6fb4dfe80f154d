# Experts from scratch: everything is trained from an ImageNet backbone, for
# 12 epochs with the learning rate of MMDetection's RetinaNet, which is meant
# for 8 GPUs with 2 pictures each.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(optimizer=dict(lr=0.01))
