"""What decisions are about: objects in pictures, or whole pictures.

A kind of model is a file of its own here; the tables, figures and pages know
:class:`.Subject` only.
"""
from typing import Callable, Dict, List, Optional, Tuple, Type

from mmengine.runner import Runner

from mmdet_moe.analysis.metric import Words
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.requirements import missing_mmdet

from . import accuracy, average_precision
from .pictures import LabelledPictures
from .subject import GroupOf, Located, Subject

__all__ = ['TESTS', 'GroupOf', 'Located', 'Subject', 'subject_of']

SUBJECTS: List[Type[Subject]] = [LabelledPictures]
if missing_mmdet() is None:
    from .objects import AnnotatedObjects
    SUBJECTS.append(AnnotatedObjects)

#: What tools/test.py writes as JSON, by metric: the words for it, and what
#: reads its values off that, {} if they are not there. So a model without
#: experts can be compared.
TESTS: List[Tuple[Words, Callable[[dict], Dict[str, Optional[float]]]]] = [
    (average_precision.AveragePrecision.words, average_precision.read_test),
    (accuracy.words('class'), accuracy.read_test)]


def subject_of(runner: Runner) -> Subject:
    """What the decisions of a runner's model are about, on its test set.

    Raises:
        ValueError: Nothing is known about data of this kind.
    """
    dataset = runner.test_dataloader.dataset
    for kind in SUBJECTS:
        if kind.fits(dataset):
            return kind(dataset)
    raise ConfigError(
        'test_dataloader.dataset: the report needs '
        f'{" or ".join(kind.needs for kind in SUBJECTS)}, there is a '
        f'{type(dataset).__name__}')
