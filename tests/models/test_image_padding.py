"""A batch that an image is padded for changes no decision about it."""
import pytest
import stock
import torch

from mmdet_moe.layers import moe_layers


@pytest.fixture
def detector():
    model = stock.stock('faster_rcnn')
    model.update(type='MoEDetector', detector=model.type, experts=[
        dict(at=['backbone.conv1', 'roi_head.bbox_head.shared_fcs.1'])])
    torch.manual_seed(0)
    built = stock.build(model).eval()
    gate = moe_layers(built)['backbone.conv1'].gate
    torch.nn.init.normal_(gate.fc_weight, std=5)
    return built


def batch(inputs, *sizes):
    samples = stock.pictures([[(10, 10, 60, 60)]] * len(inputs))[1]
    for sample, size in zip(samples, sizes):
        sample.set_metainfo(dict(img_shape=size, batch_input_shape=tuple(
            inputs.shape[-2:]), pad_shape=tuple(inputs.shape[-2:])))
    return inputs, samples


def test_a_decision_does_not_depend_on_the_batch(detector):
    image = torch.randn(1, 3, 64, 96) + 1
    padded = torch.zeros(2, 3, 96, 128)
    padded[:1, :, :64, :96], padded[1] = image, torch.randn(3, 96, 128)
    with torch.no_grad():
        alone = detector(*batch(image, (64, 96)), mode='predict')[0]
        both = detector(*batch(padded, (64, 96), (96, 128)), mode='predict')
    weights = [sample.decisions['backbone.conv1'].weights
               for sample in (alone, both[0])]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


def test_who_is_told_and_how_long(detector):
    conv, fc = moe_layers(detector).values()
    told = []
    conv.register_forward_pre_hook(lambda *_: told.append(conv.images))
    fc.register_forward_pre_hook(lambda *_: told.append(fc.images))
    inputs = torch.randn(2, 3, 96, 128)
    args = batch(inputs, (64, 96), (96, 128))
    with torch.no_grad():
        detector(*args, mode='predict')
    images, of_regions = told
    assert images.whole == (96, 128) and of_regions is None
    assert images.sizes.tolist() == [[64, 96], [96, 128]]
    assert conv.images is None
    detector.train()
    detector(*args, mode='loss')
    assert conv.images is not None  # for what is computed again
    detector(*batch(inputs, (96, 128), (96, 128)), mode='loss')
    assert conv.images is None  # nothing is padded
