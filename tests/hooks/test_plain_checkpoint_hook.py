"""Checkpoints of schedulers that hold one of their methods."""
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from toy import Tower, train

from mmdet_moe.files import DataError
from mmdet_moe.hooks import PlainCheckpointHook
from mmdet_moe.trust import check_checkpoint


def test_a_one_cycle_training_is_resumed(tmp_path):
    def go(folder, epochs, plain=True, **options):
        torch.manual_seed(0)
        return train(
            tmp_path / folder, Tower(), epochs=epochs, hooks=[
                dict(type='MoEHook'), dict(type='SeedHook'),
                *[dict(type='PlainCheckpointHook')] * plain],
            scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=12,
                           by_epoch=False), **options)

    go('objects', 1, plain=False)
    with pytest.raises(DataError, match='holds more than tensors, numbers'):
        check_checkpoint(str(tmp_path / 'objects' / 'epoch_1.pth'))
    whole = go('whole', 3)
    path = str(tmp_path / 'whole' / 'epoch_1.pth')
    check_checkpoint(path)
    rest = go('rest', 3, load_from=path, resume=True)
    for one, other in zip(whole.model.parameters(), rest.model.parameters()):
        assert torch.equal(one, other)


class Strange(dict):
    """As a config has them."""


def test_what_is_written_can_be_read(tmp_path):
    """Numbers of NumPy, as of a metric, and dicts of other classes."""
    checkpoint = dict(
        state_dict=dict(weight=torch.ones(2)),
        meta=Strange(epoch=np.int64(3), more=defaultdict(list, a=[1])),
        message_hub=dict(runtime_info=dict(
            best_score=np.float32(0.5), found=np.bool_(True),
            codes=np.arange(3, dtype=np.uint8), name=np.str_('x'))),
        param_schedulers=[dict(step=print, last=OrderedDict(a=(1, None)))],
        odd=[object(), 2])
    PlainCheckpointHook().before_save_checkpoint(None, checkpoint)
    assert checkpoint['meta'] == dict(epoch=3, more=dict(a=[1]))
    assert type(checkpoint['meta']) is type(checkpoint['meta']['more']) is dict
    info = checkpoint['message_hub']['runtime_info']
    assert [type(info[k]) for k in ('best_score', 'found', 'name')] == [
        float, bool, str]
    assert checkpoint['param_schedulers'] == [dict(last=dict(a=(1, None)))]
    assert checkpoint['odd'] == [2]
    torch.save(checkpoint, tmp_path / 'plain.pth')
    check_checkpoint(str(tmp_path / 'plain.pth'))


Pair = namedtuple('Pair', 'a b')


@pytest.mark.parametrize('value, plain', [
    (np.longdouble(2), 2.0), (np.complex64(1j), 1j), (1j, 1j),
    (np.ones(2, np.longdouble), [1, 1]), (np.array(['a', 'b']), ['a', 'b']),
    (np.array([1, None]), [1, None]), (np.ma.array([1, 2]), [1, 2]),
    ({np.int64(3): 1, (1, np.float32(2)): 3}, {3: 1, (1, 2.0): 3}),
    ({np.int64(1)}, {1}), (frozenset({1}), frozenset({1})),
    (deque([1, np.int8(2)]), [1, 2]), (range(2), [0, 1]), (Pair(1, 2), (1, 2)),
    (MappingProxyType(dict(a=1)), dict(a=1)), (bytearray(b'x'), b'x'),
    (torch.float16, torch.float16), (torch.Size([1]), (1, )),
    ([Path('x'), 2], [2]), (dict(a=print, b=1), dict(b=1)),
], ids=str)
def test_every_value_that_is_written_can_be_read(tmp_path, value, plain):
    checkpoint = dict(state_dict={}, meta=dict(value=value))
    PlainCheckpointHook().before_save_checkpoint(None, checkpoint)
    assert checkpoint['meta']['value'] == plain
    torch.save(checkpoint, tmp_path / 'plain.pth')
    check_checkpoint(str(tmp_path / 'plain.pth'))
