"""Experts of positions that are routed by k-means, on generated shapes.

    python tools/train.py configs/positions/retinanet_moe_kmeans_shapes.py

A control for retinanet_moe_positions_shapes.py: nothing about the gate is trained
for the detector's sake.
"""
_base_ = './retinanet_moe_positions_shapes.py'

custom_hooks = [dict(type='KMeansHook'), dict(type='MoEHook')]
model = dict(
    bbox_head=dict(
        moe=dict(
            gate=dict(type='KMeansGate'),
            soft_constraint=None,
            balance_weight='sample')))
