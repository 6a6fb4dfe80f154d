from typing import List, Optional

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from mmdet_moe.layers.checks import fail

from .colours import EXPERT_COLOURS


@VISUALIZERS.register_module()
class ExpertVisualizer(DetLocalVisualizer):
    """MMDetection's visualizer, with detections in the colour of an expert.

    A detection has the colour and the number of its leading expert, the one
    with the highest weight where it was made. What has no expert weights, as
    annotated objects and the detections of a dense detector, is drawn as
    ever. It goes wherever MMDetection's own goes: ``tools/test.py
    --show-dir``, DetVisualizationHook, every back end, ``add_datasample``
    after ``inference_detector``.

    Args:
        layer: Whose experts: ``'cls'``, ``'reg'``, or another name that
            MoERetinaHead reports.
        name, args, kwargs: As of DetLocalVisualizer.

    Raises:
        ValueError: When it draws: the detections have expert weights, but
            none of that layer.

    Example:
        >>> visualizer = dict(
        ...     type='ExpertVisualizer', layer='reg',
        ...     vis_backends=[dict(type='LocalVisBackend')])
    """

    def __init__(self,
                 name: str = 'visualizer',
                 *args,
                 layer: str = 'cls',
                 **kwargs) -> None:
        super().__init__(name, *args, **kwargs)
        self.layer = layer

    def _draw_instances(self, image: np.ndarray, instances: InstanceData,
                        classes: Optional[List[str]],
                        palette: Optional[List[tuple]]) -> np.ndarray:
        fields = instances.keys()
        there = [
            field.removesuffix('_expert_weights') for field in fields
            if field.endswith('_expert_weights')
        ]
        if not there:
            return super()._draw_instances(image, instances, classes, palette)
        if self.layer not in there:
            fail('ExpertVisualizer.layer', self.layer,
                 'a layer that the detections have expert weights of: ' +
                 ', '.join(map(repr, sorted(there))))
        weights = instances[f'{self.layer}_expert_weights']
        experts, known = weights.shape[1], len(classes or ())
        known = known or 1 + int(max(instances.labels.tolist(), default=0))
        classes = classes or [f'class {i}' for i in range(known)]
        # A class of its own for each pair of expert and class.
        shown = instances.clone()
        shown.labels = weights.argmax(dim=1) * known + instances.labels
        return super()._draw_instances(
            image, shown,
            [f'{e}: {name}' for e in range(experts) for name in classes],
            [EXPERT_COLOURS[e % len(EXPERT_COLOURS)]
             for e in range(experts) for _ in classes])
