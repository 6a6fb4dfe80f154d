from typing import List, Optional

import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.detection.boxes import enclosing
from mmdet_moe.layers.checks import fail
from mmdet_moe.names import weighed_layer, weights_field


@VISUALIZERS.register_module()
class ExpertVisualizer(DetLocalVisualizer):
    """MMDetection's visualizer, with detections in the colour of an expert.

    A detection has the colour and the number of its leading expert, the one
    with the highest weight where it was made; it is white if the layer took
    no part in it. What has no expert weights, as annotated objects and the
    detections of a dense detector, is drawn as ever. The visualizer goes
    wherever MMDetection's own goes: ``tools/test.py --show-dir``,
    DetVisualizationHook, every back end, ``add_datasample`` after
    ``inference_detector``.

    Args:
        layer: Whose experts: the dotted name of a MoE layer in the model; if
            None the first one by name.
        name, args, kwargs: As of DetLocalVisualizer.

    Raises:
        ValueError: When it draws: the detections have expert weights, but
            none of that layer.

    Example:
        >>> visualizer = dict(
        ...     type='ExpertVisualizer', layer='bbox_head.reg_subnet',
        ...     vis_backends=[dict(type='LocalVisBackend')])
    """

    def __init__(self,
                 name: str = 'visualizer',
                 *args,
                 layer: Optional[str] = None,
                 **kwargs) -> None:
        super().__init__(name, *args, **kwargs)
        self.layer = layer

    def _draw_instances(self, image: np.ndarray, instances: InstanceData,
                        classes: Optional[List[str]],
                        palette: Optional[List[tuple]]) -> np.ndarray:
        fields = instances.keys()
        there = sorted(filter(None, map(weighed_layer, fields)))
        if not there:
            return super()._draw_instances(image, instances, classes, palette)
        layer = there[0] if self.layer is None else self.layer
        if layer not in there:
            fail('ExpertVisualizer.layer', layer,
                 'a layer that the detections have expert weights of: ' +
                 ', '.join(map(repr, there)))
        weights = instances[weights_field(layer)]
        experts, known = weights.shape[1], len(classes or ())
        known = known or 1 + int(max(instances.labels.tolist(), default=0))
        classes = classes or [f'class {i}' for i in range(known)]
        # A class of its own for each pair of expert and class; the last of
        # the experts stands for none.
        leading = weights.nan_to_num(-1).argmax(dim=1)
        leading = leading.where(~weights.isnan().any(dim=1),
                                leading.new_tensor(experts))
        shown = instances.clone()
        # Rotated boxes are drawn as the horizontal ones around them.
        shown.bboxes = enclosing(instances.bboxes)
        shown.labels = leading * known + instances.labels
        names = [*map(str, range(experts)), 'no expert']
        colours = [*(EXPERT_COLOURS[e % len(EXPERT_COLOURS)]
                     for e in range(experts)), (255, 255, 255)]
        return super()._draw_instances(
            image, shown, [f'{e}: {name}' for e in names for name in classes],
            [colour for colour in colours for _ in classes])
