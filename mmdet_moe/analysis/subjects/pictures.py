"""Labelled pictures, and the classes that a classifier gives them."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Tuple

import mmcv
import numpy as np
import torch

from mmdet_moe.files import DataError
from mmdet_moe.layers import Decision
from mmdet_moe.layers.checks import ConfigError

from .accuracy import Accuracy, words
from .subject import Columns, GroupOf, Rows, Subject, unique


@dataclass(frozen=True)
class WholePicture:
    """A picture as the one thing that is in it; see :class:`.Located`."""
    label: int
    score: float
    true: bool

    def __len__(self) -> int:
        return 1

    @property
    def columns(self) -> Columns:
        return dict(
            label=np.array([self.label], np.int32),
            score=np.array([self.score], np.float32),
            true=np.array([self.true]))

    def under(self, decision: Decision) -> np.ndarray:
        return np.zeros(1, int)

    def over(self, decision: Decision) -> None:
        return None


class LabelledPictures(Subject):
    """The pictures of a data set of MMPretrain, and their classes.

    The superclasses of the classes, if the data set knows them, are in its
    metainfo: ``superclasses``, their names, and ``superclass_of``, which one
    each class is in.
    """
    needs = 'a data set of MMPretrain'

    def __init__(self, dataset) -> None:
        self.dataset = dataset
        label = dataset.get_data_info(0).get('gt_label')
        if not isinstance(label, (int, np.integer)):
            raise ConfigError(
                f'test_dataloader.dataset: the first picture has {label!r} as '
                'gt_label; the report needs one label for each picture')
        self.classes = unique(dataset.metainfo['classes'])
        self._groups = self._group()
        self.words = words(next(iter(self._groups)))
        self.img_ids = list(range(len(dataset)))
        ann_file = getattr(dataset, 'ann_file', '')
        self.source = str(ann_file or getattr(dataset, 'data_root', '')
                          or type(dataset).__name__)
        self.files = [str(path) for path in getattr(dataset, 'files', ())]
        if ann_file and Path(ann_file).is_file():
            self.files.append(str(ann_file))

    def _group(self) -> Dict[str, Tuple[List[str], np.ndarray]]:
        """By grouping the names of the groups, and the group of each class."""
        classes = {'class': (self.classes, np.arange(len(self.classes)))}
        metainfo = self.dataset.metainfo
        names = unique(metainfo.get('superclasses', ()))
        if len(names) < 2:  # one tells nothing
            return classes
        return {'superclass': (names, np.array(metainfo['superclass_of'])),
                **classes}

    @classmethod
    def fits(cls, dataset) -> bool:
        # Only these can be asked for all labels.
        return hasattr(dataset, 'get_gt_labels') and (
            dataset.metainfo.get('classes') is not None)

    def id_of(self, sample) -> int:
        return sample.sample_idx

    def labelled(self, sample) -> WholePicture:
        return WholePicture(int(sample.gt_label), 1.0, True)

    def predicted(self, sample) -> Tuple[WholePicture, Columns]:
        label = int(sample.pred_label)
        found = WholePicture(label, float(sample.pred_score[label]),
                             label == int(sample.gt_label))
        return found, self._outcome(sample)

    def rows(self, decision: Decision) -> Rows:
        # Of a picture that is decided about by parts, what they add up to.
        return Rows(*(None if x is None else x.mean(dim=0, keepdim=True)
                      for x in super().rows(decision)))

    def lines(self, sample, things: WholePicture,
              weights: Mapping[str, np.ndarray]) -> List[str]:
        label = int(sample.pred_label)
        return [json.dumps(dict(
            picture=sample.sample_idx,
            file=sample.metainfo.get('img_path'),
            label=self.classes[things.label],
            **{by: names[of[things.label]]
               for by, (names, of) in self._groups.items() if by != 'class'},
            predicted=self.classes[label],
            correct=label == things.label,
            score=float(sample.pred_score[label]),
            weights={name: w[0].tolist() for name, w in weights.items()}))]

    def _outcome(self, sample) -> Columns:
        score = sample.pred_score
        if not score.isfinite().all():
            raise DataError(
                f'picture {sample.sample_idx} gets scores that are not '
                'finite; are there NaNs in the checkpoint?')
        label = int(sample.gt_label)
        # Between equal ones the first counts, as for argmax.
        before = (score > score[label]) | (
            (score == score[label]) &
            (torch.arange(len(score), device=score.device) < label))
        return dict(
            picture=np.array([sample.sample_idx], np.int32),
            label=np.array([label], np.int32),
            rank=np.array([int(before.sum())], np.int32))

    def metric(self, outcomes: Columns) -> Accuracy:
        return Accuracy(self._groups, outcomes)

    def groupings(self, levels: int
                  ) -> Dict[str, Tuple[List[str], GroupOf]]:
        return {by: (names, lambda columns, of=of: of[columns['label']])
                for by, (names, of) in self._groups.items()}

    def image(self, index: int, path: str) -> np.ndarray:
        info = self.dataset.get_data_info(index)
        if 'img' in info:  # RGB, or grey
            image = info['img']
            return image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
        return mmcv.imread(info['img_path'], channel_order='rgb')

    def notes(self, records) -> List[str]:
        label = records.labelled.groups['class']
        absent = [name for i, name in enumerate(self.classes)
                  if not (label == i).any()]
        return ['No test picture is of these classes: ' + ', '.join(absent)
                + '.'] if absent else []
