"""One config for each of MMDetection's folders of configs."""
from pathlib import Path
from typing import List

import mmdet

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'

#: Folders of parts that other configs have as a base.
NO_FAMILIES = '_base_', 'common', '__pycache__'

#: By folder the config that stands for it, where the rule would take another.
CHOSEN = dict(
    cascade_rpn='cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    glip='glip_atss_swin-t_a_fpn_dyhead_16xb2_ms-2x_funtune_coco.py',
    guided_anchoring='ga-faster-rcnn_r50_fpn_1x_coco.py',
    htc='htc_r50_fpn_1x_coco.py',  # with the semantic branch
    libra_rcnn='libra-faster-rcnn_r50_fpn_1x_coco.py',
    mm_grounding_dino='grounding_dino_swin-t_pretrain_obj365.py',
    pvt='retinanet_pvt-t_fpn_1x_coco.py',
    swin='mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    timm_example='retinanet_timm-tv-resnet50_fpn_1x_coco.py')

#: Folders without a detector of boxes or masks, and what there is instead.
NO_DETECTORS = dict(clrnet='lanes', reid='embeddings of whole images')


def folders() -> List[str]:
    """The folders, sorted."""
    return sorted(
        path.name for path in CONFIGS.iterdir()
        if path.is_dir() and path.name not in NO_FAMILIES)


def config_of(folder: str) -> str:
    """The config of a folder, as MMDetection's hub names it.

    It is the first one by name; those that begin with the name of the folder
    go before the others, and among them those of a ResNet-50 with a pyramid.
    """
    name = CHOSEN.get(folder) or min(
        (path.name for path in (CONFIGS / folder).glob('*.py')),
        key=lambda name: (not name.startswith(folder.replace('_', '-')),
                          '_r50' not in name,
                          '_r50' in name and '_fpn' not in name, name))
    return f'mmdet::{folder}/{name}'
