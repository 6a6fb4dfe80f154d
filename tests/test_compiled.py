"""A compiled detector: nothing is compiled anew as the decisions change."""
import detectors
import needs
import stock
import torch
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

import mmdet_moe.detection  # noqa: F401  (in the registries)
from mmdet_moe.layers import moe_layers

GRAPHS = []


@torch._dynamo.register_backend(name='counting')
def count(graph, inputs):
    """What is compiled is counted, and run as it is."""
    GRAPHS.append(graph)
    return graph.forward


class Graphs(Hook):
    """How many graphs there are after each step."""

    def __init__(self):
        self.counts, self.chosen = [], set()

    def after_train_iter(self, runner, *args, **kwargs):
        self.counts.append(len(GRAPHS))
        self.chosen.add(tuple(
            round(float(runner.message_hub.get_scalar(
                f'train/moe.bbox_head.cls_convs.0.share_{e}').current()), 3)
            for e in range(4)))


def objects(number):
    corners = torch.rand(number, 2) * 40
    return torch.cat([corners, corners + 8 + 30 * torch.rand(number, 2)], 1)


@needs.compiled_detectors
def test_no_compilation_after_the_third_step(tmp_path):
    """MMEngine's ``compile``, with as many objects as there happen to be."""
    torch._dynamo.reset()
    init_default_scope('mmdet')
    batches = []
    for numbers in ((1, 4), (3, 2), (5, 1), (2, 2), (1, 1), (4, 5)):
        inputs, samples = stock.pictures(
            [objects(n).tolist() for n in numbers])
        batches.append(dict(
            inputs=list(50 * inputs + 120 + 80 * torch.randn(2, 3, 1, 1)),
            data_samples=samples))
    model = detectors.small(detectors.HEADS['retinanet'])
    model.update(type='MoEDetector', detector='RetinaNet', experts=[dict(
        at='bbox_head.cls_convs.0', num_experts=4,
        soft_constraint=dict(type='SwitchLoss'))])
    detector = MODELS.build(model)
    detector.init_weights()
    for layer in moe_layers(detector).values():
        nn.init.normal_(layer.gate.fc_weight)
    graphs = Graphs()
    Runner(
        detector, work_dir=str(tmp_path),
        train_dataloader=DataLoader(batches, collate_fn=lambda x: x[0]),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001)),
        custom_hooks=[dict(type='MoEHook'), graphs],
        default_hooks=dict(checkpoint=None), default_scope='mmdet',
        experiment_name=str(tmp_path),
        cfg=dict(compile=dict(backend='counting'))).train()
    # Experts are run by the dispatch, those that are busy, and in no graph.
    assert not [node for graph in GRAPHS for node in graph.graph.nodes
                if 'modules_experts' in node.name]
    assert len(graphs.chosen) > 2  # the decisions did change
    assert 0 < graphs.counts[0] < graphs.counts[2] == graphs.counts[-1]
