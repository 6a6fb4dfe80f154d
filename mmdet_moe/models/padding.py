"""Which tokens of a transformer are real, and which only fill a batch up.

Pictures of a batch differ in size and in their number of objects. Tensors of
tokens (B, T, C) are filled up, and what fills must not count in the balance
of the experts.
"""
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import fail
from mmdet_moe.layers.padding import Images


class ImagesInBatch:
    """Tells the MoE layers of a model where the images of each batch are, so
    that padding changes no decision.

    Layers in a second stage look at regions, and are told nothing; so are all
    of them where the model is called without images or their ``img_shape``, or
    where no image is smaller than the batch. After a training step they keep
    it for activation checkpointing, until the next call.

    Args:
        model: A model of MMEngine's interface.
    """

    def __init__(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self._tell, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)

    def _tell(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs = kwargs.get('inputs', args[0] if args else None)
        samples = kwargs.get('data_samples', args[1] if args[1:] else None)
        images = images_of(inputs, samples)
        for name, layer in moe_layers(model).items():
            layer.images = None if 'roi_head.' in name else images

    def _end(self, model: nn.Module, *_) -> None:
        if not (model.training and torch.is_grad_enabled()):
            for layer in moe_layers(model).values():
                layer.images = None


def images_of(inputs, samples) -> Optional[Images]:
    """Where the images of a batch are.

    Args:
        inputs: (B, C, H, W); or videos (B, T, C, H, W), of which trackers
            look at B frames at a time; or anything else.
        samples: The B data samples, with ``img_shape``, or anything else.

    Returns:
        None if that is not known, as of a video whose frames differ in size,
        or if there is no padding.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() not in (4, 5) or not (
            isinstance(samples, (list, tuple)) and len(samples) == len(inputs)):
        return None
    sizes = [_size_of(sample) for sample in samples]
    whole = tuple(inputs.shape[-2:])
    if None in sizes or all(size == whole for size in sizes):
        return None
    return Images(torch.tensor(sizes, dtype=torch.float32,
                               device=inputs.device), whole)


def _size_of(sample) -> Optional[Tuple[int, int]]:
    """Height and width of an image, or of each frame of a video."""
    frames = getattr(sample, 'video_data_samples', [sample])
    shapes = {tuple((getattr(frame, 'metainfo', {}).get('img_shape') or ())[:2])
              for frame in frames}
    return next(iter(shapes)) or None if len(shapes) == 1 else None


def real_queries(counts: Sequence[int],
                 num_groups: int,
                 num_tokens: int,
                 device: Optional[torch.device] = None) -> Tensor:
    """Real tokens of a decoder with denoising queries.

    DINO, https://arxiv.org/abs/2203.03605, section 3.3, trains its decoder
    also on the annotated objects themselves, with noise. In MMDetection the
    tokens are, in this order, ``num_groups`` times M positive and M negative
    denoising queries, M being the largest number of objects in a picture, and
    then the other queries. A picture with m objects uses the first m of each
    M; the others are zeros.

    Args:
        counts: The B pictures' numbers of objects.
        num_groups: Groups of denoising queries.
        num_tokens: T, the number of all tokens of a picture.
        device: Of the mask.

    Returns:
        (B, T) bool, True for a real token.
    """
    most = max(counts)
    denoising = 2 * num_groups * most
    if num_tokens < denoising:
        fail('num_tokens', num_tokens,
             f'at least {denoising}: {num_groups} groups, {most} objects')
    place = torch.arange(num_tokens, device=device)
    own = torch.tensor(counts, device=device)[:, None]
    return (place >= denoising) | (place % max(most, 1) < own)


def real_pixels(tokens: Tensor, key_padding_mask: Optional[Tensor]) -> Tensor:
    """Real tokens of an encoder.

    Args:
        tokens: (B, T, C).
        key_padding_mask: (B, T), as the encoder is called with it: True for
            padding. None if there is no padding.

    Returns:
        (B, T) bool, True for a real token.
    """
    if key_padding_mask is None:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    return ~key_padding_mask.bool()


class RealTokens:
    """Says, in each call of a detector, which of its tokens are real.

    From the start of the encoder on these are pixels, also for a head that
    proposes queries from them; from the start of the decoder on they are
    queries, also for the head that follows.

    A loss that is computed without calling the detector itself is taken to
    have no denoising queries.

    Args:
        detector: A detector of MMDetection. One without encoder and decoder
            is left alone.
        say: Called with the (B, T) mask, True for a real token, before the
            encoder or decoder runs, and with None when the detector is done,
            also after an exception.
    """

    def __init__(self, detector: nn.Module,
                 say: Callable[[Optional[Tensor]], None]) -> None:
        self._say = say
        self._generator = getattr(detector, 'dn_query_generator', None)
        self._counts: Optional[Sequence[int]] = None
        self._handles = []
        for name, before in (('encoder', self._before_encoder),
                             ('decoder', self._before_decoder)):
            module = getattr(detector, name, None)
            if isinstance(module, nn.Module):
                self._handles.append(
                    module.register_forward_pre_hook(before, with_kwargs=True))
        if self._handles:
            self._handles += [
                detector.register_forward_pre_hook(
                    self._begin, with_kwargs=True),
                detector.register_forward_hook(self._end, always_call=True)
            ]

    def remove(self) -> None:
        """Stop, and leave nothing behind in the detector."""
        self._end()
        while self._handles:
            self._handles.pop().remove()

    def _begin(self, detector: nn.Module, args: tuple, kwargs: dict) -> None:
        samples = kwargs.get('data_samples', args[1] if args[1:] else None)
        if self._generator is not None and detector.training and samples:
            self._counts = [len(s.gt_instances) for s in samples]

    def _end(self, *_) -> None:
        self._counts = None
        self._say(None)

    def _before_encoder(self, module: nn.Module, args: tuple,
                        kwargs: dict) -> None:
        tokens = kwargs['query'] if 'query' in kwargs else args[0]
        self._say(real_pixels(tokens, kwargs.get('key_padding_mask')))

    def _before_decoder(self, module: nn.Module, args: tuple,
                        kwargs: dict) -> None:
        tokens = kwargs['query'] if 'query' in kwargs else args[0]
        if self._counts is None:
            return self._say(real_pixels(tokens, None))
        groups = self._generator.get_num_groups(max(self._counts))
        self._say(
            real_queries(self._counts, groups, tokens.shape[1],
                         tokens.device))
