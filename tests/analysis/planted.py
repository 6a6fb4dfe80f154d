"""Records whose answers are known."""
import cv2
import numpy as np
import torch

from mmdet_moe.analysis.layer_record import grids_of, layer_record, observe
from mmdet_moe.analysis.parts import join
from mmdet_moe.analysis.records import Picture, Records, Things
from mmdet_moe.layers import Decision, Routing
from mmdet_moe.layers.scopes import LevelScope


def decision(weights, logits=None, scope=None, shapes=None):
    """Of one picture: a row for each sample; by default one for each level."""
    weights = torch.as_tensor(weights, dtype=torch.float)
    routing = Routing(
        weights, weights.argsort(dim=1, descending=True),
        weights if logits is None else torch.as_tensor(
            logits, dtype=torch.float),
        torch.zeros_like(weights, dtype=torch.bool))
    n = len(weights)
    return Decision(routing, scope or LevelScope(), shapes or ((1, 4, 4), ) * n,
                    levels=tuple(range(len(shapes or weights))))


def records(tmp_path, pictures=24, constant=False, make=None, shown=()):
    """Two objects of one class per picture, one per level; picture i gives
    level 0 to expert 0 with weight i / pictures, level 1 to expert 1."""
    paths = []
    for i in range(pictures):
        paths.append(str(tmp_path / f'{i}.jpg'))
        cv2.imwrite(paths[-1], np.full((40, 60, 3), 5 * i, np.uint8))
    rows = [[[i / pictures, 1 - i / pictures], [0, 1]]
            for i in range(pictures)]
    decisions = [(make or decision)(
        row, np.ones((2, 2)) if constant else 9 * np.array(row))
        for row in rows]
    kept = join(
        observe(one, [np.arange(len(one.weights))], one.weights,
                one.routing.logits)[0] for one in decisions)  # all, in order
    layer = layer_record(
        kept, top_k=2,
        grids={i: [*grids_of(decisions[i]).values()] for i in shown},
        frames={i: np.array([decisions[i].start, decisions[i].extent or (
            40, 60)]) for i in shown})
    n = 2 * pictures
    objects = Things(
        picture=np.repeat(np.arange(pictures), 2),
        box=np.tile([10., 5, 30, 25], (n, 1)),
        groups={
            'size': np.zeros(n, int), 'level': np.tile([0, 1], pictures),
            'class': np.zeros(n, int)},
        score=np.ones(n),
        true=np.ones(n, bool),
        under=dict(moe=np.arange(n)))
    return Records(
        pictures=[Picture(i, p, 40, 60) for i, p in enumerate(paths)],
        groupings={
            'size': ['small', 'medium', 'large'],
            'level': ['level 0', 'level 1'], 'class': ['cell']},
        layers=dict(moe=layer), shown=list(shown),
        labelled=objects, predicted=objects[:0], metric=None, interventions={},
        over=dict(moe=np.concatenate([d.weights for d in decisions])))
