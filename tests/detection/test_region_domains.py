"""The domain of each region is that of its image."""
import copy

import pytest
import stock

from mmdet_moe.layers import domains_are, moe_layers

OBJECTS = [[[8, 8, 40, 40], [30, 20, 90, 80]], [[4, 4, 24, 20]]]


@pytest.mark.parametrize('name, at, calls', [
    ('faster_rcnn', 'roi_head.bbox_head.shared_fcs.1', 1),
    ('cascade_rcnn', 'roi_head.bbox_head.*.shared_fcs.0', 3)
])
def test_domains_of_regions(name, at, calls):
    cfg = stock.stock(name)
    cfg.update(
        type='MoEDetector', detector=cfg.type,
        experts=[dict(at=at, num_experts=2, top_k=1, soft_constraint=dict(
            type='DatasetLoss', experts=dict(sea=0, air=1)))])
    # Hooks are copied with the model, as by an average of weights.
    detector = copy.deepcopy(stock.build(cfg)).train()
    layers = list(moe_layers(detector).values())
    assert len(layers) == calls
    for layer in layers:
        layer.recording = True
    inputs, samples = stock.pictures(OBJECTS)
    for names in (['sea', 'air'], ['air', 'sea'], ['air', 'air']):
        with domains_are(names):
            detector(inputs, copy.deepcopy(samples), mode='loss')
        for layer in layers:
            (call, ), layer.recorder.calls[:] = list(layer.recorder.calls), []
            found = call.domain.tolist()
            # The regions come image by image, and each image has some.
            changes = sum(a != b for a, b in zip(found, found[1:]))
            assert found[0] == ['sea', 'air'].index(names[0])
            assert found[-1] == ['sea', 'air'].index(names[1])
            assert changes == (names[0] != names[1])
    detector.eval()(inputs, samples, mode='predict')  # needs no domains
