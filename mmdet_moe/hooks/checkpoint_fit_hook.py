import logging
import re

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import nn

from mmdet_moe.config_parts import apart
from mmdet_moe.files import DataError
from mmdet_moe.layers import moe_layers

from .finite_loss_hook import all_finite
from .wrappers import unwrapped

#: What torch says of a weight that has another shape.
_MISMATCH = re.compile(
    r'size mismatch for (.+?): .*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)')


def check_fit(runner) -> None:
    """Have a runner check what it loads with a :class:`CheckpointFitHook`, if
    it does not yet."""
    if not any(isinstance(hook, CheckpointFitHook) for hook in runner.hooks):
        runner.register_hook(CheckpointFitHook())


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses weights to test with that are those of another model.

    MMEngine leaves what a checkpoint lacks as it was drawn at random, and says
    so among many lines. The state of a hard constraint counts if it acts in
    evaluation. Weights of other parts of the model may be missing, with a
    warning, as long as they are fewer than half.

    The weights are loaded, as they are afterwards by the runner: models may
    rename or resize what they load.

    Raises:
        DataError: A MoE layer, or most of the model, is not in the checkpoint;
            or a weight has another shape there, or is NaN or Inf; or it was
            trained on the same classes in another order.
    """
    priority = 'VERY_HIGH'  # what is not refused may be changed by others

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        _check_classes(runner, checkpoint.get('meta') or {})
        model = unwrapped(runner.model)
        own = model.state_dict()
        try:
            missing = model.load_state_dict({
                key.removeprefix('module.'): x for key, x in checkpoint.get(
                    'state_dict', checkpoint).items()
            }, strict=False).missing_keys
        except RuntimeError as error:
            found = _MISMATCH.search(str(error))
            raise DataError(
                'the checkpoint does not fit this config: ' +
                (f'{found[1]} should have the shape ({found[3]}), there is '
                 f'({found[2]})' if found else str(error))) from None
        for name, layer in moe_layers(model).items():
            hard = layer.hard_constraint
            idle = hard is None or hard.shift() is None
            for part in layer.state_dict():
                if f'{name}.{part}' in missing and not (
                        part.startswith('hard_constraint.') and idle):
                    raise DataError(
                        f'the checkpoint does not fit the MoE layer {name} of '
                        f'this config: there is no {name}.{part}. A model '
                        'without experts can be converted with '
                        'tools/model_converters/upcycle.py')
        _check_rest(len(own), missing)
        _check_finite(model)


def _check_classes(runner, meta: dict) -> None:
    """Refuse a checkpoint of the same classes in another order: each label
    would have the name of another class."""
    learned = (meta.get('dataset_meta') or {}).get(
        'classes', meta.get('CLASSES'))
    loader = getattr(runner, 'test_dataloader', None)
    tested = (getattr(getattr(loader, 'dataset', None), 'metainfo', None)
              or {}).get('classes')
    if learned is None or tested is None:
        return
    learned, tested = tuple(learned), tuple(tested)
    if learned != tested and sorted(learned) == sorted(tested):
        these, those = apart(learned, tested)
        raise DataError(
            f'the checkpoint was trained on the classes {these}, and '
            f'test_dataloader.dataset has {those}: give it metainfo.classes in '
            'the order of the checkpoint')


def _check_finite(model: nn.Module) -> None:
    """Refuse weights, running statistics, or state of a MoE layer, that are
    NaN or Inf. Other buffers, such as masks, may hold what they like."""
    state = dict(model.named_parameters())
    of_layers = tuple(f'{name}.' for name in moe_layers(model))
    state.update((name, x) for name, x in model.named_buffers()
                 if name.endswith(('running_mean', 'running_var'))
                 or name.startswith(of_layers))
    lost = [name for name, x in state.items() if not all_finite(x)]
    if lost:
        raise DataError(
            f'the checkpoint has NaN or Inf in {lost[0]}' + (
                f' and {len(lost) - 1} more' if lost[1:] else '') +
            '. Take one from before, or train with a lower learning rate')


def _check_rest(own: int, missing: list) -> None:
    if not missing:
        return
    text = (f'{len(missing)} of the {own} weights of the model are not in the '
            'checkpoint: ' + ', '.join(missing[:3]) +
            (', ...' if len(missing) > 3 else ''))
    if len(missing) > own / 2:
        raise DataError(f'{text}. Is it the checkpoint of another config?')
    print_log(text, 'current', logging.WARNING)
