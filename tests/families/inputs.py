"""Images, annotations and words for a detector of any kind."""
import copy
from pathlib import Path
from typing import Tuple

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.testing import demo_mm_inputs, demo_track_inputs
from mmengine.structures import InstanceData

from .shrink import walk

#: Height and width of the images, by folder: those of SSD are fixed, and
#: deformable convolutions need maps as large as their kernels.
SIZES = dict(ssd=(300, 300), ddod=(288, 288))
#: Heads of stuff that learn from maps of an eighth of the image.
EIGHTHS = 'htc', 'scnet', 'detectors'
#: Those whose images have one size, as in their own pipelines.
ALIKE = *EIGHTHS, 'rtmdet', 'yolact'
#: Classes of objects in the images, where the detector has as many.
CLASSES = 'cat', 'dog', 'tree', 'car', 'boat', 'cup'
BRANCHES = 'sup', 'unsup_teacher', 'unsup_student'
#: Detectors that are asked in words.
ASKED = 'GLIP', 'GroundingDINO'


def size_of(folder: str) -> Tuple[int, int]:
    """Height and width of the images for the config of a folder."""
    return SIZES.get(folder, (128, 128))


def batch_of(folder: str, model: dict, *, videos: bool = False) -> dict:
    """Two noise images with annotations, or a video of two frames.

    Args:
        folder: Of the config.
        model: Its model.
        videos: Whether what is wanted is a video.

    Returns:
        What a model's data preprocessor takes.
    """
    kind = model['type']
    if kind == 'MoEDetector':
        kind = model['detector']
    height, width = size_of(folder)
    if videos:
        batch = demo_track_inputs(
            1, 2, key_frames_inds=[0], image_shapes=(3, height, width),
            num_items=[3], with_mask=True)
        frames = batch['data_samples'][0].video_data_samples
    else:
        smaller = 0 if folder in ALIKE else 14
        batch = demo_mm_inputs(
            2, [(3, height, width), (3, height - smaller, width)], [3, 2],
            sem_seg_output_strides=8 if folder in EIGHTHS else 1,
            with_mask=True, with_semantic=True,
            texts=[CLASSES] * 2 if kind in ASKED else None,
            custom_entities=True)
        frames = batch['data_samples']
    for sample in frames:
        _annotate(sample, _classes(model))
        if not videos:  # as pipelines of images give them
            for objects in (sample.gt_instances, sample.ignored_instances):
                objects.bboxes = HorizontalBoxes(objects.bboxes)
        if kind == 'FastRCNN':  # whose regions come from a file
            n = len(sample.gt_instances)
            sample.proposals = InstanceData(
                bboxes=sample.gt_instances.bboxes.tensor.repeat(4, 1),
                scores=torch.ones(4 * n))
    if kind == 'SoftTeacher':
        batch = {
            key: {branch: copy.deepcopy(value) for branch in BRANCHES}
            for key, value in batch.items()
        }
    return batch


def _annotate(sample, classes: int) -> None:
    """Objects as wide and as high as a quarter of the image, at least."""
    height, width = sample.img_shape
    objects = sample.gt_instances
    n = len(objects)
    rng = np.random.RandomState(n)
    corners = rng.rand(n, 2) * (0.4 * width, 0.4 * height)
    boxes = torch.tensor(
        np.hstack([corners, corners + rng.uniform(0.25, 0.55, (n, 2)) *
                   (width, height)]), dtype=torch.float32)
    masks = np.zeros((n, height, width), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    objects.masks.masks = masks
    objects.bboxes = boxes
    objects.labels = torch.arange(n) % classes
    if 'instances_ids' in objects:
        objects.instances_ids = torch.arange(n)
    del sample.ignored_instances
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    sample.set_metainfo(dict(
        scale_factor=(1.0, 1.0), homography_matrix=np.eye(3, dtype=np.float32),
        img_path=f'{sample.img_id}.jpg'))


def _classes(model: dict) -> int:
    numbers = [len(CLASSES)]
    walk(model, lambda part: numbers.append(part['num_classes'])
         if isinstance(part.get('num_classes'), int) else None)
    return min(numbers)


def language_model(folder: Path) -> str:
    """Write a small BERT, that knows letters, as transformers reads it.

    Returns:
        The folder; '' without transformers.
    """
    try:
        from transformers import BertConfig, BertModel, BertTokenizerFast
    except ImportError:
        return ''
    folder.mkdir(parents=True, exist_ok=True)
    letters = 'abcdefghijklmnopqrstuvwxyz'
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters,
             *(f'##{letter}' for letter in letters)]
    vocabulary = folder / 'vocab.txt'
    vocabulary.write_text('\n'.join(words))
    BertTokenizerFast(vocab_file=str(vocabulary)).save_pretrained(folder)
    BertModel(BertConfig(
        vocab_size=len(words), hidden_size=768, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64)).save_pretrained(folder)
    return str(folder)
