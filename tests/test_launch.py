import os
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdet_moe import launch
from mmdet_moe.files import DataError

CONFIGS = Path(__file__).parents[1] / 'configs'


def test_channels_that_do_not_match(load_config):
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.model.bbox_head.in_channels = 128
    with pytest.raises(
            ValueError,
            match='model.bbox_head.in_channels=128: allowed is 64'):
        launch.build_runner(cfg, ())


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder, )


def test_a_checkpoint_of_before_torch_1_6_is_not_run(tmp_path):
    config = str(CONFIGS / 'retinanet_moe_fpn_shapes.py')
    checkpoint = tmp_path / 'old.pth'
    content = dict(state_dict={'weight': torch.ones(3)},
                   meta=dict(epoch=12, CLASSES=('disc', )))
    torch.save(content, checkpoint, _use_new_zipfile_serialization=False)
    cfg = launch.load_config(config, checkpoint=str(checkpoint))
    assert cfg.load_from == str(checkpoint)

    content['meta']['code'] = Code(tmp_path / 'was_run')
    torch.save(content, checkpoint, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match='posix.mkdir.* could run code'):
        launch.load_config(config, checkpoint=str(checkpoint))
    assert not (tmp_path / 'was_run').exists()


def test_an_interrupted_save_leaves_a_checkpoint():
    """MMEngine removes the oldest one before the new one is written."""
    cfg = Config.fromfile(CONFIGS / 'retinanet_moe_fpn_shapes.py')
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2
    for path in CONFIGS.rglob('*.py'):  # to load all of them takes a minute
        assert not re.search(r'max_keep_ckpts\W+1\b', path.read_text()), path


def test_a_checkpoint_that_was_cut_off(load_config, tmp_path, shapes):
    """Also one that a training is to begin with."""
    path = tmp_path / 'whole.pth'
    torch.save(dict(state_dict={'weight': torch.ones(1000)}), path)
    path.write_bytes(path.read_bytes()[:2000])
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.update(load_from=str(path), work_dir=str(tmp_path))
    cfg.train_dataloader.dataset.data_root = f'{shapes}/'
    with pytest.raises(DataError, match='is not complete: the file ends'):
        launch.build_runner(cfg, ('train', ))


def test_a_checkpoint_of_another_model(load_config, tmp_path, shapes):
    path = tmp_path / 'other.pth'
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.update(load_from=str(path), work_dir=str(tmp_path))
    cfg.test_dataloader.dataset.data_root = f'{shapes}/'
    for metric in cfg.test_evaluator:
        metric.ann_file = f'{shapes}/annotations/instances_val.json'
    torch.save(dict(state_dict={'weight': torch.ones(3)}), path)
    with pytest.raises(DataError, match='does not fit the MoE layer'):
        launch.build_runner(cfg, ('test', )).load_or_resume()
    runner = launch.build_runner(cfg, ('test', ))
    experts = {key: x for key, x in runner.model.state_dict().items()
               if 'subnet' in key}
    torch.save(dict(state_dict=experts), path)
    with pytest.raises(DataError, match='weights of the model are not in .*'
                       'Is it the checkpoint of another config'):
        runner.load_or_resume()


def test_options_without_effect():
    config = str(CONFIGS / 'retinanet_moe_fpn_shapes.py')
    with pytest.warns(UserWarning) as said:
        launch.load_config(config, cfg_options={
            'moe.top_k': 1, 'trian_cfg.max_epochs': 1,
            'train_cfg.max_epochs': 1})
    assert [str(w.message).split(': ', 1)[1] for w in said
            if '--cfg-options' in str(w.message)] == [
        'moe is a variable of the config file; settings that were computed '
        'from it keep their values', 'the config has no trian_cfg']
