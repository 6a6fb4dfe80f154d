from typing import Optional, Sequence, Union

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mmdet_moe.layers import force


@HOOKS.register_module()
class ForcingHook(Hook):
    """Overrules the gates in validation and test.

    As in ``tools/test.py CONFIG CHECKPOINT --cfg-options
    "custom_hooks=[dict(type='ForcingHook', expert=2)]"``.

    Args:
        layers, top_k, expert, drop: As of :func:`mmdet_moe.layers.force`.

    Raises:
        ValueError: Before the first picture, if a pattern matches no layer or
            a layer has no such expert.
    """

    def __init__(self,
                 layers: Union[str, Sequence[str]] = '*',
                 top_k: Optional[int] = None,
                 expert: Optional[int] = None,
                 drop: Union[int, Sequence[int]] = ()) -> None:
        self.options = dict(
            layers=layers, top_k=top_k, expert=expert, drop=drop)

    def before_run(self, runner) -> None:
        model = runner.model
        force(model.module if is_model_wrapper(model) else model,
              **self.options)
