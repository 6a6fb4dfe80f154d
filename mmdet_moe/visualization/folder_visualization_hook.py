import os
import warnings
from typing import List, Optional, Sequence

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.runner import Runner

from mmdet_moe.files import ReportError, common_folder
from mmdet_moe.layers.checks import ConfigError


@HOOKS.register_module()
class FolderVisualizationHook(DetVisualizationHook):
    """MMDetection's hook; painted images keep the folders of the images.

    Images of one name in several folders of a test set are painted to
    folders of the same names. An image that cannot be painted does not end
    the test.

    Args:
        args, kwargs: As of DetVisualizationHook.

    Raises:
        ReportError: After the test: some images could not be painted.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._out_dir, self._root = self.test_out_dir, None
        self._failed: List[str] = []

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict,
                        outputs: Sequence[DetDataSample]) -> None:
        if not self.draw:
            return
        for sample in outputs:
            if self._out_dir is not None:
                self.test_out_dir = os.path.join(
                    self._out_dir, self._folder(runner, sample.img_path))
            try:
                super().after_test_iter(runner, batch_idx, data_batch,
                                        [sample])
            except ConfigError:
                raise
            except Exception as error:  # the metrics are still wanted
                if not self._failed:
                    warnings.warn(f'{sample.img_path} could not be painted: '
                                  f'{type(error).__name__}: {error}')
                self._failed.append(
                    f'{sample.img_path} ({type(error).__name__}: {error})')

    def after_test(self, runner: Runner) -> None:
        if self._failed:
            raise ReportError(
                f'{len(self._failed)} images could not be painted, the first '
                f'of them {self._failed[0]}; the metrics are written')

    def _folder(self, runner: Runner, path: str) -> str:
        """Of an image, in what all images of the test set have in common."""
        if self._root is None:
            self._root = _root(runner.test_dataloader.dataset) or ''
        folder = os.path.dirname(os.path.abspath(path))
        return os.path.relpath(folder, self._root) if self._root else ''


def _root(dataset) -> Optional[str]:
    """The folder that all images of a data set are in; None if that is not
    known."""
    try:
        return common_folder([dataset.get_data_info(i)['img_path']
                              for i in range(len(dataset))])
    except (AttributeError, KeyError, TypeError):
        return None
