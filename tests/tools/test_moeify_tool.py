"""tools/moeify.py as a user calls it, and what it writes in use."""
from command import ROOT, on, tool

MOEIFY = 'tools/moeify.py'
DENSE = 'configs/retinanet_fpn_shapes.py'
TOWER = 'bbox_head.cls_convs.*'


def test_the_written_config_trains_and_tests(shapes, tmp_path):
    out = tmp_path / 'moe.py'
    output = tool(MOEIFY, ROOT / DENSE, '--at', TOWER, '--freeze', '--out',
                  out)
    assert '| bbox_head.cls_convs.1 | ConvModule | 4 ' in output
    output = tool('tools/train.py', out, '--work-dir', tmp_path / 'work',
                  *on(shapes, 'train_cfg.max_epochs=1'))
    assert 'loss_moe_kl.bbox_head.cls_convs.0' in output
    assert 'frozen  backbone' in output
    checkpoint = (tmp_path / 'work' / 'last_checkpoint').read_text()
    output = tool('tools/test.py', out, checkpoint, '--work-dir', tmp_path,
                  *on(shapes, 'model.test_cfg.score_thr=0.0'))
    assert 'bbox_head.cls_convs.0: expert weight, %' in output


def test_bad_input(tmp_path):
    for config, *args, message in (
        (DENSE, '--at', 'bbox_head.no.*',
         'accepted in bbox_head: bbox_head.cls_convs'),
        ('configs/retinanet_moe_fpn_shapes.py', '--at', TOWER,
         'the model has experts already'),
        (DENSE, '--at', TOWER, '--checkpoint', 'gone.pth',
         'gone.pth does not exist'),
        ('mmdet::fcos/gone.py', '--at', TOWER, 'gone.py'),
        ('mmdet::gone.py', '--at', TOWER, 'mmdet::gone.py does not name a'),
    ):
        output = tool(MOEIFY, config, *args, '--out', tmp_path / 'x.py',
                      ok=False)
        assert 'error: ' in output and message in output
    assert not list(tmp_path.iterdir())
