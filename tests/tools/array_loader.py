"""A step of a pipeline, for images of any channels."""
import numpy as np
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class LoadArray:

    def __call__(self, results):
        image = np.load(results['img_path'])
        return dict(results, img=image, img_shape=image.shape[:2],
                    ori_shape=image.shape[:2])
