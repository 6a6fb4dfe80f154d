"""YOLOX-nano with experts on seven real domains, all of them in grey.

    python tools/train.py configs/domains/yolox_moe_grey_nano_domains.py

A control for yolox_moe_nano_domains.py: two of the domains are grey, so that
colour alone tells them from the others.
"""
_base_ = './yolox_moe_nano_domains.py'

grey = dict(type='RandomGrayscale', prob=1.0, keep_channels=True)
train_dataloader = dict(
    dataset=dict(
        pipeline=[_base_.train_pipeline[0], grey, *_base_.train_pipeline[1:]]))
val_dataloader = dict(
    dataset=dict(
        pipeline=[_base_.test_pipeline[0], grey, *_base_.test_pipeline[1:]]))
test_dataloader = val_dataloader
