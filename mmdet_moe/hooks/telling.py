"""What layers are told of a batch, which they cannot see in the features."""
from contextlib import ExitStack
from typing import Dict, Optional

from torch import Tensor, nn

from mmdet_moe.layers import MoELayer, domains_are, real_tokens_are
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.models.padding import RealTokens
from mmdet_moe.models.reporting import mode_of, samples_of


def padding_does_not_count(model: nn.Module) -> RealTokens:
    """Tell the layers which tokens of encoder and decoder are real."""
    told = ExitStack()

    def tell(mask: Optional[Tensor]) -> None:
        told.close()
        if mask is not None:
            told.enter_context(real_tokens_are(mask))

    return RealTokens(model, tell)


class DomainsOfPictures:
    """Tells the layers which domain each picture of a training step is of, if
    any of them has a constraint that asks for it.

    Args:
        model: A detector.
        layers: Its MoE layers by name.
    """

    def __init__(self, model: nn.Module, layers: Dict[str, MoELayer]) -> None:
        self._asking = [name for name, layer in layers.items() if any(
            soft.needs_domains for soft in layer.soft_constraints)]
        self._told = ExitStack()
        self._handles = [
            model.register_forward_pre_hook(self._tell, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True)
        ] if self._asking else []

    def remove(self) -> None:
        """Stop, and leave nothing behind in the model."""
        self._end()
        while self._handles:
            self._handles.pop().remove()

    def _tell(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self._end()
        if mode_of(args, kwargs) != 'loss':
            return
        names = [s.get('domain') for s in samples_of(args, kwargs) or ()]
        if not names or None in names:
            raise ConfigError(
                f'{self._asking[0]} has a constraint that needs the domain of '
                "each picture: let train_dataloader's dataset be of "
                "type='DomainCocoDataset', and meta_keys of its PackDetInputs "
                "have 'domain' in them")
        self._told.enter_context(domains_are(names))

    def _end(self, *_) -> None:
        self._told.close()
