"""Interventions on kept outputs, and as separate runs: time and AP.

    python benchmarks/interventions.py CONFIG CHECKPOINT [--cfg-options ...]

Every expert forced, dropped and replaced, K' = 1..E, and experts drawn at
random. Once as the report does it, what does not depend on them computed once
for each batch; once as a test run for each of them, in one process with the
model loaded and the data checked, so that only loading pictures, the detector
and CocoMetric are counted. Both include the model as it is. Printed are the
seconds of both, their ratio, and the largest difference of AP, which CocoMetric
gives to three decimals.
"""
import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from mmdet_moe.analysis.average_precision import METRICS
from mmdet_moe.analysis.collect import Collector, collect
from mmdet_moe.analysis.comparison import COCO_METRIC
from mmdet_moe.analysis.interventions import plan
from mmdet_moe.analysis.joining import make_records
from mmdet_moe.analysis.metric import of_pictures
from mmdet_moe.analysis.parts import Parts
from mmdet_moe.launch import build_runner, load_config
from mmdet_moe.layers import moe_layers

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))
from arguments import add_arguments


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    add_arguments(parser, launcher=False)
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args.config, work_dir=args.work_dir,
                      cfg_options=args.cfg_options,
                      checkpoint=args.checkpoint)
    runner = build_runner(cfg, ('test', ))
    runner.call_hook('before_run')
    runner.load_or_resume()
    metrics = runner.test_evaluator.metrics
    metrics[:] = [m for m in metrics if isinstance(m, CocoMetric)]
    coco = metrics[0]._coco_api
    chosen = plan(moe_layers(runner.model))
    MMLogger.get_current_instance().setLevel('WARNING')
    runner.test_loop.run()  # once, so that neither has the first run

    start = time.perf_counter()
    dataset = runner.test_dataloader.dataset
    collector = Collector(
        runner.model, coco=coco, classes=dataset.metainfo['classes'],
        img_ids=[dataset.get_data_info(i)['img_id']
                 for i in range(len(dataset))], interventions=chosen)
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(Path(folder), {})
        collect(runner, collector, parts)
        records = make_records(collector, parts.read())
        ours = {i: of_pictures(metric, len(dataset)) for i, metric in (
            *records.interventions.items(), (None, records.metric))}
    kept = time.perf_counter() - start

    start = time.perf_counter()
    tested = {None: runner.test_loop.run()}
    for i in chosen:
        if i.kind != 'top_k' or i.value != records.layers[i.layer].top_k:
            with i.applied(runner.model):
                tested[i] = runner.test_loop.run()
    separate = time.perf_counter() - start

    differences = defaultdict(float)
    for i, metrics in tested.items():
        for name in METRICS:
            value = metrics[COCO_METRIC[name]]
            if value >= 0:
                differences[name] = max(differences[name],
                                        abs(round(ours[i][name], 3) - value))
    print(f'\n{len(tested)} runs over {len(records.pictures)} pictures: '
          f'{kept:.1f} s on kept outputs, {separate:.1f} s as separate runs, '
          f'ratio {separate / kept:.2f}')
    print('largest difference: ' + ', '.join(
        f'{name} {x:.3f}' for name, x in differences.items()))


if __name__ == '__main__':
    main()
