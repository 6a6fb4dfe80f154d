"""A model that was trained with the tools, once for all tests of them."""
import pytest
from command import MOE, on, tool


@pytest.fixture(scope='session')
def trained(shapes, tmp_path_factory):
    """The folder of a training of one epoch, not to be changed; its log."""
    work_dir = tmp_path_factory.mktemp('work')
    output = tool('tools/train.py', MOE, '--work-dir', work_dir,
                  *on(shapes, 'train_cfg.max_epochs=1'))
    return work_dir, output
