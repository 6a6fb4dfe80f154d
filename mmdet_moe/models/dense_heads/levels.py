"""Which pyramid level made a detection, and which one an object belongs to."""
from typing import Callable, List, Optional, Sequence

import torch
from mmdet.models.task_modules import MaxIoUAssigner
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor


def predict_with_levels(head,
                        predict_single: Callable[..., InstanceData],
                        cls_score_list: List[Tensor],
                        bbox_pred_list: List[Tensor],
                        score_factor_list: List[Optional[Tensor]],
                        mlvl_priors: List[Tensor],
                        img_meta: dict,
                        cfg: Optional[dict],
                        rescale: bool = False,
                        with_nms: bool = True) -> InstanceData:
    """A head's ``_predict_by_feat_single`` with ``level_ids`` (n,) added.

    MMDetection limits the candidates level by level and only then joins the
    levels, so asking for one level at a time gives the same detections. This
    holds for heads that treat all levels alike, as RetinaNet does.

    Args:
        head: The head, for its post-processing.
        predict_single: The head's own method.
        others: As of that method.
    """
    cfg = head.test_cfg if cfg is None else cfg
    # Small boxes are filtered once, at the end, in the picture's own scale.
    unfiltered = ConfigDict(cfg, min_bbox_size=-1)
    per_level = []
    for level, parts in enumerate(
            zip(cls_score_list, bbox_pred_list, score_factor_list,
                mlvl_priors)):
        found = predict_single(
            *[[part] for part in parts], img_meta, unfiltered, with_nms=False)
        found.level_ids = found.labels.new_full((len(found), ), level)
        per_level.append(found)
    return head._bbox_post_process(
        results=InstanceData.cat(per_level),
        cfg=cfg,
        rescale=rescale,
        with_nms=with_nms,
        img_meta=img_meta)


def weights_at(found: InstanceData, grids: Sequence[Tensor], meta: dict,
               rescaled: bool) -> Tensor:
    """Expert weights of detections, from where and at which level they are.

    Args:
        found: Detections with ``bboxes`` and ``level_ids`` (n,).
        grids: For each level (gh, gw, E), the weights by place.
        meta: Of the picture: its sizes and scale.
        rescaled: Whether the boxes are in the original picture's scale.

    Returns:
        (n, E).
    """
    if all(grid.shape[:2] == (1, 1) for grid in grids):
        return torch.cat(list(grids))[found.level_ids, 0]
    boxes = get_box_tensor(found.bboxes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    if rescaled:
        centre = centre * centre.new_tensor(meta['scale_factor'])
    height, width = meta.get('batch_input_shape', meta['img_shape'][:2])
    # All places of all levels are the rows of one table.
    table = torch.cat([grid.flatten(0, 1) for grid in grids])
    sizes = torch.tensor([grid.shape[:2] for grid in grids],
                         device=centre.device)
    ends = sizes.prod(dim=1).cumsum(dim=0)
    size, end = sizes[found.level_ids], ends[found.level_ids]
    relative = centre.flip(1) / centre.new_tensor((height, width))
    row, column = (relative * size).long().clamp(min=0).minimum(
        size - 1).unbind(dim=1)
    return table[end - size.prod(dim=1) + row * size[:, 1] + column]


def assigns_levels(head) -> bool:
    """Whether :func:`assigned_levels` can ask this head.

    Assigners need to be told different things; MaxIoUAssigner, that of
    RetinaNet and of region proposal networks, needs the anchors only.
    """
    assign = getattr(type(getattr(head, 'assigner', None)), 'assign', None)
    return (hasattr(head, 'get_anchors')
            and assign is MaxIoUAssigner.assign)  # subclasses ask for more


def assigned_levels(head, sizes: Sequence[Sequence[int]],
                    objects: Sequence[InstanceData],
                    metas: Sequence[dict]) -> List[Tensor]:
    """The levels that the ground-truth objects of pictures are assigned to.

    Of the anchors that the head's training assigner gives to an object, the
    one that overlaps it most decides.

    Args:
        head: One that :func:`assigns_levels`.
        sizes: Height and width of the L feature maps that the head saw.
        objects: For each picture ``bboxes`` (n, 4) in the original picture's
            coordinates, and ``labels`` (n,).
        metas: Of the pictures: their sizes and scales.

    Returns:
        For each picture (n,) int64, -1 for an object without an anchor.
    """
    if not any(map(len, objects)):
        return [one.labels.new_zeros(0) for one in objects]
    device = objects[0].labels.device
    priors, valid = head.get_anchors(sizes, list(metas), device=device)
    anchors = get_box_tensor(torch.cat(priors[0]))  # the same for all
    level_of = torch.repeat_interleave(
        torch.tensor([len(p) for p in priors[0]], device=device))
    levels = []
    for one, meta, flags in zip(objects, metas, valid):
        keep = torch.cat(flags)
        boxes = get_box_tensor(one.bboxes)
        scaled = scale_boxes(boxes.clone(), meta.get('scale_factor', (1, 1)))
        levels.append(
            _levels(
                head.assigner.assign(
                    InstanceData(priors=anchors[keep]),
                    InstanceData(bboxes=scaled, labels=one.labels)),
                level_of[keep], len(boxes)))
    return levels


def _levels(assigned, level_of: Tensor, objects: int) -> Tensor:
    """Result of an assigner, levels of its anchors -> levels of objects."""
    if objects == 0:
        return level_of[:0]
    # gt_inds are counted from 1.
    numbers = torch.arange(1, objects + 1, device=level_of.device)
    overlap, best = assigned.max_overlaps.where(
        assigned.gt_inds == numbers[:, None],
        assigned.max_overlaps.new_tensor(-1)).max(dim=1)
    return level_of[best].where(overlap >= 0, level_of.new_tensor(-1))
