"""The report: AP by size, who does what, pictures, configuration."""
import base64
import json
from pathlib import Path
from typing import List

import cv2
import mmcv
import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from terminaltables import AsciiTable

from mmdet_moe.evaluation import ExpertAssignmentMetric
from mmdet_moe.evaluation.assignment_table import SIZES
from mmdet_moe.files import write_text
from mmdet_moe.visualization import EXPERT_COLOURS, draw_boxes_by_expert

#: What CocoMetric calls the figures that are reported.
AP_KEYS = {
    'AP': 'coco/bbox_mAP',
    'AP50': 'coco/bbox_mAP_50',
    'AP75': 'coco/bbox_mAP_75',
    'AP_S': 'coco/bbox_mAP_s',
    'AP_M': 'coco/bbox_mAP_m',
    'AP_L': 'coco/bbox_mAP_l'
}


def write_report(runner: Runner, pictures: int = 8) -> Path:
    """Test a model and write what came out to the runner's working folder.

    ``report.html`` is one self-contained page, ``report.json`` holds its
    numbers, ``report.txt`` the tables that :func:`summary` gives.

    Args:
        runner: With a checkpoint to load, a CocoMetric and an
            ExpertAssignmentMetric that has an ``outfile``.
        pictures: How many test pictures are shown.

    Returns:
        The page.

    Raises:
        ValueError: The test evaluator has no ExpertAssignmentMetric.
    """
    outfiles = [
        m.outfile for m in runner.test_evaluator.metrics
        if isinstance(m, ExpertAssignmentMetric) and m.outfile
    ]
    if not outfiles:
        raise ValueError(
            'test_evaluator: the report needs the expert tables; add '
            "dict(type='ExpertAssignmentMetric', ann_file=...) beside "
            'CocoMetric, in a model with a MoERetinaHead')
    metrics = runner.test()
    numbers = dict(
        name=Path(runner.cfg.filename).stem,
        checkpoint=Path(runner.cfg.load_from).name,
        # -1 is what COCO gives where no object is of a size.
        ap={
            name: metrics[key] if metrics.get(key, -1) >= 0 else None
            for name, key in AP_KEYS.items()
        },
        **json.loads(Path(outfiles[0]).read_text(encoding='utf-8')))
    folder = Path(runner.work_dir)
    write_text(folder / 'report.json', json.dumps(numbers, indent=1))
    write_text(folder / 'report.txt', summary(numbers))
    page = Environment(
        loader=PackageLoader('mmdet_moe.analysis'),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True).get_template('report.html').render(
            numbers=numbers,
            colours=['#{:02x}{:02x}{:02x}'.format(*c) for c in EXPERT_COLOURS],
            pictures=_pictures(runner, pictures, tuple(numbers['layers'])),
            config=runner.cfg.pretty_text)
    return write_text(folder / 'report.html', page)


def summary(numbers: dict) -> str:
    """AP by size and the expert x size tables, as text."""
    ap = numbers['ap']
    blocks = [
        AsciiTable([
            list(ap),
            ['-' if v is None else f'{v:.3f}' for v in ap.values()]
        ], numbers['name']).table
    ]
    for layer, table in numbers['layers'].items():
        sizes = table['objects']['size']
        rows = [['expert', 'importance, %'] + [
            f'{size}, % ({sizes[size]["count"]} objects)' for size in SIZES
        ]]
        for e, importance in enumerate(table['importance']):
            rows.append([str(e), f'{100 * importance:.1f}'] + [
                f'{100 * sizes[s]["weight"][e]:.1f}'
                if sizes[s]['count'] else '-' for s in SIZES
            ])
        blocks.append(AsciiTable(rows, f'{layer} subnet').table)
    return '\n'.join(blocks) + '\n'


def _pictures(runner: Runner, number: int, layers) -> List[dict]:
    """Evenly spaced test pictures, painted, as data URLs by layer."""
    dataset = runner.test_dataloader.dataset
    step = max(1, len(dataset) // max(1, number))
    classes = dataset.metainfo['classes']
    shown = []
    for i in range(0, len(dataset), step)[:number]:
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[i]]))[0]
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        shown.append(
            dict(
                name=Path(sample.img_path).name,
                painted={
                    layer: _data_url(
                        draw_boxes_by_expert(picture, sample.pred_instances,
                                             layer, classes))
                    for layer in layers
                }))
    return shown


def _data_url(picture) -> str:
    ok, code = cv2.imencode('.jpg', picture[..., ::-1],
                            [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not ok:
        raise OSError('a picture could not be encoded as JPEG')
    return 'data:image/jpeg;base64,' + base64.b64encode(code).decode()
