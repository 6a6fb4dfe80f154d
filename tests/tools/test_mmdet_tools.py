"""MMDetection's own tools on the configs of this repository."""
from pathlib import Path

import mmdet
import pytest
from command import MOE, on, tool
from mmengine.config import Config
from mmengine.fileio import load

TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'
REGIONS = 'configs/faster_rcnn/faster-rcnn_moe_r18_fpn_shapes.py'
LAYERS = ('bbox_head.cls_subnet', 'bbox_head.reg_subnet')


def test_out_holds_decisions_and_expert_weights(trained, shapes, tmp_path):
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    tool(TOOLS / 'test.py', MOE, checkpoint, '--work-dir', tmp_path, '--out',
         tmp_path / 'all.pkl', *on(shapes, 'model.test_cfg.score_thr=0.0'))
    samples = load(tmp_path / 'all.pkl')
    assert len(samples) == 8
    for sample in samples:
        found = sample['pred_instances']
        assert set(sample['decisions']) == set(LAYERS)
        for layer in LAYERS:
            weights = found[f'{layer}.expert_weights']
            assert weights.shape == (len(found['bboxes']), 4)
            # What the decision says of the level that each was found on.
            decided = sample['decisions'][layer].at(found['bboxes'],
                                                    found['level_ids'])
            assert weights.equal(decided)
            assert weights.sum(dim=1).tolist() == pytest.approx(
                [1] * len(weights))


def test_print_config_saves_a_config_that_stands_alone(tmp_path):
    path = tmp_path / 'whole' / 'config.py'
    output = tool(TOOLS / 'misc' / 'print_config.py', REGIONS, '--save-path',
                  path, '--cfg-options', 'model.experts.0.top_k=1')
    assert "detector='FasterRCNN'" in output
    model = Config.fromfile(path).model
    assert model.type == 'MoEDetector'
    assert model.experts[0].top_k == 1
    assert model.backbone.base_channels == 32


def test_analyze_logs_reads_a_log_with_experts(trained, tmp_path):
    log, = trained[0].glob('*/vis_data/scalars.json')
    script = TOOLS / 'analysis_tools' / 'analyze_logs.py'
    # Releases without seaborn have a default style that Matplotlib lacks.
    style = [] if 'import seaborn' in script.read_text() else [
        '--style', 'ggplot']
    for args in (['cal_train_time', log, '--include-outliers'],
                 ['plot_curve', log, *style, '--keys',
                  'loss_moe_kl.bbox_head.cls_subnet',
                  'moe.bbox_head.cls_subnet.importance_0', '--out',
                  tmp_path / 'curves.png']):
        output = tool(script, *args)
        assert 'nan' not in output, output
    assert (tmp_path / 'curves.png').exists()
