import pytest

from mmdet_moe.launch import build_runner


def test_channels_that_do_not_match(load_config):
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.model.bbox_head.in_channels = 128
    with pytest.raises(
            ValueError,
            match='model.bbox_head.in_channels=128: allowed is 64'):
        build_runner(cfg, ())
