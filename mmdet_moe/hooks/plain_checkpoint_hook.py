from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leaves out of a checkpoint what would make it more than data.

    A OneCycle scheduler has one of its own methods among its attributes. With
    it the scheduler and the optimizer would be written as objects, and to read
    such a file means to run code, which is refused (see SECURITY.md). A
    scheduler that goes on has its methods anyhow.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        schedulers = checkpoint.get('param_schedulers', [])
        # by name, if there are several optimizers
        groups = schedulers.values() if isinstance(schedulers, dict) else [
            schedulers]
        for group in groups:
            for state in group:
                for key in [k for k, x in state.items() if callable(x)]:
                    del state[key]
