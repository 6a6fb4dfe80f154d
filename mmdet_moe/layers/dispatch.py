"""Dispatch: run the experts that a routing selected and mix what they return.

``y[n] = sum_e weights[n, e] * experts[e](x[n])``

The functions take the pieces of all levels at once: ``pieces`` is a sequence
of L tensors (n_l, C, h_l, w_l), ``weights`` one of L tensors (n_l, E). They
return one mixture per piece. :func:`dense_dispatch` is the definition,
:func:`sparse_dispatch` the way to compute it, and :func:`.grouped_dispatch`
another one for feed-forward networks.
"""
from functools import partial
from typing import (
    Callable,
    List,
    Mapping,
    Optional,
    Sequence,
    Union,
)

import torch
from torch import Tensor, nn

from .autocast import autocast_dtype
from .checks import check_choice, check_keywords, check_number, fail
from .distributed import distributed
from .grouped import grouped_dispatch
from .memory_format import memory_order
from .merging import MERGE_ABOVE, MergedConvolution, merging_pays
from .plan import Plan, make_plans

Dispatch = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[nn.Module]],
                    List[Tensor]]


def dense_dispatch(pieces: Sequence[Tensor], weights: Sequence[Tensor],
                   experts: Sequence[nn.Module]) -> List[Tensor]:
    """Run every expert on every sample: the obvious reference."""
    return [
        sum(_scale(expert(x), w[:, e]) for e, expert in enumerate(experts))
        for x, w in zip(pieces, weights)
    ]


# In a compiled model it is not part of a graph: that would be compiled anew
# for each number of samples that an expert gets.
@torch.compiler.disable
def sparse_dispatch(
        pieces: Sequence[Tensor],
        weights: Sequence[Tensor],
        experts: Sequence[nn.Module],
        *,
        merge_above: Mapping[str, float] = MERGE_ABOVE) -> List[Tensor]:
    """Run each expert once per level, on its own samples only.

    What is to be done is decided for all levels before anything is, see
    :mod:`.plan`; a sample goes wherever its weight is not 0, NaN included.
    Experts without a sample are not run: an empty batch may turn the running
    statistics of a BatchNorm into NaN. Only a level without any sample is
    given to the first expert, for the shape of the output. Convolutions are
    merged where that is cheaper, see :mod:`.merging`.

    Args:
        pieces, weights, experts: See above.
        merge_above: By type of device, positions from which a convolution
            costs more than to merge a kernel for them; nothing is merged on
            devices that are not named.
    """
    experts = list(experts)
    plans = make_plans(weights)
    pays = merging_pays(pieces, plans, experts, merge_above)
    merged = sorted({e for plan, p in zip(plans, pays) if p for e in plan.rows})
    merge = MergedConvolution([experts[e] for e in merged]) if merged else None
    outputs = [
        merge(x, w[:, merged]) if p else _mixture_of(x, w, plan, experts)
        for x, w, plan, p in zip(pieces, weights, plans, pays)
    ]
    if distributed() and torch.is_grad_enabled():
        busy = {e for plan in plans for e in plan.rows}
        idle = [x for e, x in enumerate(experts) if e not in busy]
        # Weights of no sample are in no mixture, and the gate would be idle.
        outputs[0] = _Tie.apply(
            outputs[0], *(p for expert in idle for p in expert.parameters()),
            *(w for w in weights if not len(w)))
    return outputs


class RememberingDispatch:
    """Run an expert on a piece once, however often the piece comes back.

    For a layer that is run again and again on the same features with other
    weights, in evaluation. An expert is run on all samples of a piece as soon
    as one of them needs it, and what it returned is kept until it is given
    a piece with other values.
    """

    def __init__(self) -> None:
        self._kept = {}

    def __call__(self, pieces: Sequence[Tensor], weights: Sequence[Tensor],
                 experts: Sequence[nn.Module]) -> List[Tensor]:
        used = [(w != 0).any(dim=0).nonzero().flatten().tolist()
                for w in weights]
        return [
            sum(_scale(self._output(level, e, x, experts), w[:, e])
                for e in mine) if mine else experts[0](x)
            for level, (x, w, mine) in enumerate(zip(pieces, weights, used))
        ]

    def _output(self, level: int, e: int, x: Tensor,
                experts: Sequence[nn.Module]) -> Tensor:
        # A layer that is called level by level has a piece of each shape.
        key = level, x.shape, e
        piece, version, output = self._kept.get(key, (None, None, None))
        # Pieces that are cut out of maps are new tensors at each call.
        if piece is None or version != _version(piece) or not (
                piece is x or torch.equal(piece, x)):
            output = experts[e](x)
            self._kept[key] = x, _version(x), output
        return output


def _mixture_of(x: Tensor, weights: Tensor, plan: Plan,
                experts: Sequence[nn.Module]) -> Tensor:
    """One level: x (n, ...), weights (n, E) -> mixtures (n, ...).

    Samples are gathered once, for all experts that see a part of them, and
    what experts return is added up expert by expert, also in the backward
    pass: there are K n samples and outputs in memory, not E n.
    """
    if not len(x):
        return experts[0](x)  # for its shape: there may be no regions
    if plan.direct is not None and not weights.requires_grad:
        return experts[plan.direct](x)  # nothing to gather or to weigh
    there, back = memory_order(x)
    rows = list(plan.rows.values())
    own = weights.flatten().index_select(0, plan.entries).split(
        [len(r) for r in rows])
    add = _Add.apply if torch.is_grad_enabled() else _add
    mixture = None
    for e, r, w, part in zip(plan.rows, rows, own, _gather(x, rows)):
        y = _run(experts[e], x, part, r).movedim(*there)
        if mixture is None and len(r) < len(x):
            mixture = y.new_zeros(len(x), *y.shape[1:])
        mixture = add(mixture, y, w, r)
    return mixture.movedim(*back)


def _run(expert: nn.Module, x: Tensor, part: Tensor, rows: Tensor) -> Tensor:
    """An expert on its samples, ``part = x[rows]``.

    Of rows (k, C), which are as large as what an expert computes of them, the
    part is not saved for the backward pass, but gathered again.

    Raises:
        RuntimeError: In the backward pass, if ``x`` was changed in place since,
            as autograd does.
    """
    if x.dim() > 2 or part is x or not torch.is_grad_enabled() or (
            _saved_elsewhere()):
        return expert(part)
    dtype = autocast_dtype(x.device.type)
    if dtype is not None and _starts_linear(expert):
        part = part.to(dtype)  # by nn.Linear otherwise, which would save that
    # Not the part itself, which would stay in memory. An expert that works in
    # place has changed it, which the version tells; a transpose of it, which
    # the strides tell, is another tensor.
    same, version, dtype = _identity(part), _version(x), part.dtype

    def pack(saved: Tensor) -> Optional[Tensor]:
        return None if _identity(saved) == same else saved

    def unpack(saved: Optional[Tensor]) -> Tensor:
        if saved is not None:
            return saved
        if _version(x) != version:
            raise RuntimeError(
                'the features of a mixture of experts, which are needed for '
                'the gradients of its experts, were changed in place after '
                f'the call: they are at version {x._version}, and version '
                f'{version} was used')
        return x.index_select(0, rows).to(dtype)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return expert(part)


def _saved_elsewhere() -> bool:
    """Whether the caller has hooks for what is saved, as activation
    checkpointing does, which saves nothing; only the innermost ones count.
    False where PyTorch does not tell, as version 2.1."""
    top = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
    return top is not None and top(True) is not None


def _version(x: Tensor) -> int:
    """How often a tensor was changed in place; not known in inference mode."""
    return 0 if x.is_inference() else x._version


def _identity(x: Tensor) -> tuple:
    return x.data_ptr(), x.shape, x.stride(), x.dtype, x._version


def _starts_linear(expert: nn.Module) -> bool:
    """Whether a linear layer is all that reads the input. A module with a
    ``forward`` of its own may read it twice, as for a residual."""
    while type(expert).forward is nn.Sequential.forward and len(expert):
        expert = expert[0]
    return type(expert).forward is nn.Linear.forward


def _gather(x: Tensor, rows: Sequence[Tensor]) -> List[Tensor]:
    """What each of some experts sees of x; itself, where that is all."""
    n = len(x)
    some = [r for r in rows if len(r) < n]
    if not some:
        return [x] * len(rows)
    there, back = memory_order(x)
    # Unsafe if the whole was used too; so an expert may work in place.
    parts = iter(
        x.movedim(*there).index_select(0, torch.cat(some)).movedim(*back)
        .unsafe_split_with_sizes([len(r) for r in some]))
    return [next(parts) if len(r) < n else x for r in rows]


def _add(mixture: Optional[Tensor], y: Tensor, weights: Tensor,
         rows: Tensor) -> Tensor:
    """Add what an expert returned, y (k, ...) with weights (k,), to the rows
    (k,) of a mixture (n, ...), in place. Where it is None, k = n."""
    if mixture is None:
        return _scale(y, weights)
    if len(rows) < len(mixture):
        return mixture.index_add_(0, rows, _scale(y, weights))
    if y.dtype == weights.dtype:
        return mixture.addcmul_(y, _column(weights, y))
    return mixture.add_(_scale(y, weights))


class _Add(torch.autograd.Function):
    """:func:`_add` with its gradient.

    As ``index_add(rows, output * weight)``, but without the product in memory:
    outputs of a subnet are larger than its features, and to read and write
    them is what a mixture costs beside its experts.
    """

    @staticmethod
    def forward(ctx, mixture: Optional[Tensor], y: Tensor, weights: Tensor,
                rows: Tensor) -> Tensor:
        ctx.save_for_backward(
            weights, rows, *([y] if ctx.needs_input_grad[2] else ()))
        if mixture is not None:
            ctx.mark_dirty(mixture)
        return _add(mixture, y, weights, rows)

    @staticmethod
    @torch.compiler.disable  # it is called while a backward pass is compiled
    def backward(ctx, gradient: Tensor):
        weights, rows, *y = ctx.saved_tensors
        own = gradient if len(rows) == len(gradient) else (
            gradient.index_select(0, rows))
        to_weights = _dot(own, y[0]).to(weights.dtype) if y else None
        to_mixture = gradient if ctx.needs_input_grad[0] else None
        return to_mixture, _scale(own, weights), to_weights, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (k, ...) -> (k,), at least float32."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return torch.linalg.vecdot(
        a.flatten(1).to(dtype), b.flatten(1).to(dtype))


def _scale(y: Tensor, weight: Tensor) -> Tensor:
    """Multiply each sample by its weight; the result has the dtype of y.

    The product is made in float32: the gradient of a weight is a sum over all
    positions, which half precision could not hold.
    """
    return (y * _column(weight, y)).to(y.dtype)


def _column(weight: Tensor, like: Tensor) -> Tensor:
    """(k,) -> (k, 1, ...) to be multiplied with (k, ...)."""
    return weight.view(-1, *[1] * (like.dim() - 1))


class _Tie(torch.autograd.Function):
    """An output as it is, with gradients of 0 for idle parameters.

    DistributedDataParallel waits for a gradient of every parameter, and an
    expert that is idle here may be busy on another rank.
    """

    @staticmethod
    def forward(ctx, output: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return output.detach()  # unlike a view may be changed in place

    @staticmethod
    @torch.compiler.disable  # it is called while a backward pass is compiled
    def backward(ctx, gradient: Tensor):
        return (gradient, *(torch.zeros_like(p) for p in ctx.saved_tensors))


DISPATCHES = {
    'sparse': sparse_dispatch,
    'grouped': grouped_dispatch,
    'dense': dense_dispatch
}


def build_dispatch(cfg: Union[str, Mapping]) -> Dispatch:
    """The dispatch that a config names.

    Args:
        cfg: ``'sparse'``, ``'grouped'``, ``'dense'``, or a dict with that as
            its ``type`` and keyword-only arguments of that function.

    Raises:
        ValueError: There is no such dispatch, or argument.
    """
    options = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    function = DISPATCHES[check_choice('dispatch', options.pop('type', None),
                                       DISPATCHES)]
    check_keywords('dispatch', options, function,
                   reserved=('pieces', 'weights', 'experts'))
    above = options.get('merge_above', {})
    if not isinstance(above, Mapping):
        fail('dispatch.merge_above', above, 'a dict such as dict(cuda=50)')
    for device, positions in above.items():
        check_number(f'dispatch.merge_above.{device}', positions)
    return partial(function, **options) if options else function
