"""Checkpoints of schedulers that hold one of their methods."""
import pytest
import torch
from toy import Tower, train

from mmdet_moe.files import DataError
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
