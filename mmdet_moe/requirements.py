"""Which part of the OpenMMLab stack is missing, and how to install it.

OpenMMLab's own releases and the maintained onedl forks are distributed under
different names but imported under the same, so neither can be a hard
requirement of the package: what counts is what can be imported.
"""
import io
import sys
import warnings
from contextlib import redirect_stdout
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Optional

_INSTALL = """\
mmdet_moe needs MMDetection: {what} cannot be imported. Install it with
    pip install torch==2.11.0 torchvision==0.26.0
    pip install "setuptools>=80,<82" "packaging>=24.2" wheel ninja psutil
    pip install --no-build-isolation onedl-mmcv==2.3.6
    pip install onedl-mmengine==0.10.12 onedl-mmdetection==3.5.1
(or OpenMMLab's own mmengine 0.10, mmcv 2.1 and mmdet 3.3, on PyTorch 2.1; see
docs/installation.md)."""

_MMPRETRAIN = """\
mmdet_moe.classification needs MMPretrain: mmpretrain cannot be imported.
Install it with
    pip install onedl-mmpretrain==1.3.6
(or mmpretrain==1.2.0 beside OpenMMLab's own mmcv)."""

#: Modules of this package that need what all OpenMMLab's packages stand on.
_NEED_ENGINE = ('analysis', 'conversion', 'detection', 'evaluation', 'hooks',
                'launch', 'models', 'optim', 'resuming', 'sweep',
                'visualization', 'whole_files')
#: Modules that import MMDetection, or are of no use without.
_NEED_MMDET = ('analysis.complexity', 'analysis.subjects.objects',
               'conversion.compare', 'conversion.dense_twin',
               'conversion.moeify', 'conversion.pictures', 'conversion.prune',
               'conversion.upcycle', 'datasets.checks', 'datasets.classes',
               'datasets.domains', 'detection', 'evaluation', 'visualization')


def is_there(name: str) -> bool:
    """Whether a module can be imported; it is not."""
    try:
        return find_spec(name) is not None
    except ImportError:  # the parent package does not import
        return False


def missing_engine() -> Optional[str]:
    """How to install what models of any kind need; None if it is there."""
    return _missing('mmengine', 'mmcv')


def missing_mmdet() -> Optional[str]:
    """How to install what detectors need; None if it is there.

    ``mmcv._ext`` holds the compiled operators, which mmcv-lite lacks.
    """
    return _missing('mmengine', 'mmcv', 'mmcv._ext', 'mmdet')


def import_quietly(*names: str) -> None:
    """Import modules of MMDetection and MMPretrain without their notices of
    packages that are not there, and that nothing here uses.

    What else is printed meanwhile is printed, and other warnings are given.
    """
    printed = io.StringIO()
    # Not catch_warnings: filters that a module adds are to stay.
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
    notice = warnings.filters[0]
    try:
        with redirect_stdout(printed):
            for name in names:
                import_module(name)
    finally:
        if notice in warnings.filters:
            warnings.filters.remove(notice)
        sys.stdout.writelines(
            line for line in printed.getvalue().splitlines(keepends=True)
            if not line.startswith('Could not import OneDL'))


def need_mmpretrain() -> None:
    """Raise an ImportError that says how to install MMPretrain if it is not
    there."""
    if not is_there('mmpretrain'):
        raise ImportError(_MMPRETRAIN, name='mmpretrain')


def _missing(*names: str) -> Optional[str]:
    for name in names:
        if not is_there(name):
            return _INSTALL.format(what=name)
    return None


class Refusal(MetaPathFinder):
    """Import finder for an environment without MMDetection.

    It finds nothing. Where a module of the package that needs what is missing
    is to be imported, it raises ``ImportError`` with a message that helps,
    instead of that of the first import which fails inside the module.

    Args:
        package: Name of the package.
        message: Of the error.
        engine: Whether that is what all OpenMMLab's packages stand on.
    """

    def __init__(self, package: str, message: str, engine: bool) -> None:
        names = (*_NEED_ENGINE, *_NEED_MMDET) if engine else _NEED_MMDET
        self._refused = {f'{package}.{name}' for name in names}
        self._message = message

    def find_spec(self, fullname: str, path=None, target=None) -> None:
        if fullname in self._refused:
            raise ImportError(self._message, name=fullname)
