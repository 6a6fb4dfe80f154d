import pytest
import torch
from stock import build, pictures, predict, stock

from mmdet_moe.models.padding import RealTokens, real_queries

BOXES = [[8., 8., 40., 40.], [20., 30., 70., 60.], [5., 50., 30., 75.]]


def test_denoising_queries_by_hand():
    # 2 groups, at most 2 objects: P P N N P P N N, then 3 other queries.
    mask = real_queries([1, 2, 0], 2, 11)
    assert mask.int().tolist() == [
        [1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]
    assert real_queries([0, 0], 1, 3).all()
    with pytest.raises(ValueError, match='num_tokens=7: allowed is at least 8'):
        real_queries([1, 2], 2, 7)


class Log:
    """What a consumer is told, and what the decoder really gets."""

    def __init__(self, detector):
        self.said, self.queries = [], []
        self.tokens = RealTokens(detector, self.said.append)
        detector.decoder.register_forward_pre_hook(
            lambda _, args, kwargs: self.queries.append(kwargs['query']),
            with_kwargs=True)

    def masks(self):
        assert self.said[-1] is None
        return [mask for mask in self.said if mask is not None]


@pytest.mark.parametrize('name', ['dino', 'ddq'])
@pytest.mark.parametrize('counts', [(3, 1), (0, 2), (0, 0)])
@pytest.mark.parametrize('groups', [
    dict(dynamic=True, num_dn_queries=24),
    dict(dynamic=False, num_groups=2),
], ids=['dynamic', 'static'])
def test_padding_is_what_the_generator_left_zero(name, counts, groups):
    model = stock(name)
    model.dn_cfg.group_cfg = groups
    detector = build(model).train()
    log = Log(detector)
    inputs, samples = pictures([BOXES[:n] for n in counts])
    detector(inputs, samples, mode='loss')
    encoder, decoder = log.masks()
    padding = (log.queries[0] == 0).all(-1)
    assert torch.equal(decoder, ~padding)
    assert padding.any() == (max(counts) > min(counts))
    assert not encoder.all() and encoder[0].all()

    # The counts of a training step do not outlive it.
    predict(detector.eval(), inputs, samples)
    assert log.masks()[-1].shape == (2, 30) and log.masks()[-1].all()


def test_keywords_and_exceptions():
    detector = build(stock('dino')).train()
    log = Log(detector)
    inputs, samples = pictures([BOXES, BOXES[:1]])

    def fail(*args):
        raise KeyError

    handle = detector.decoder.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyError):
        detector(inputs=inputs, data_samples=samples, mode='loss')
    handle.remove()
    assert len(log.masks()) == 2 and not log.masks()[1].all()
    predict(detector.eval(), inputs, samples)
    assert log.masks()[-1].all()

    log.tokens.remove()
    said = len(log.said)
    predict(detector, inputs, samples)
    assert len(log.said) == said


@pytest.mark.parametrize('name, tokens, real', [
    # A picture of 64 x 72 in a batch of 96 x 128: of the 3 x 4 cells of
    # stride 32, those that begin inside it are 2 x 3.
    ('detr', 12, 6),
    # 12 x 16, 6 x 8, 3 x 4, 2 x 2 cells: 8 x 9, 4 x 5, 2 x 3, 2 x 2 inside.
    ('deformable_detr', 256, 102),
])
def test_pixels_of_an_encoder_by_hand(name, tokens, real):
    detector = build(stock(name))
    log = Log(detector)
    inputs, samples = pictures([(), (), ()])
    predict(detector, inputs, samples)
    encoder, decoder = log.masks()
    assert encoder.shape == (3, tokens)
    assert encoder[0].all() and encoder[2].sum() == real
    assert decoder.shape == (3, 30) and decoder.all()


def test_detectors_without_tokens_are_left_alone():
    detector = build(stock('faster_rcnn'))
    said = []
    RealTokens(detector, said.append)
    predict(detector, *pictures())
    assert not said
