"""Routing: logits -> which experts a sample goes to, and with which weight."""
import dataclasses
from dataclasses import dataclass, field, fields
from typing import Callable, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_int, fail
from .graphs import recorded_as_a_graph


@dataclass(frozen=True)
class Routing:
    """The decision for N samples; every tensor has a row for each.

    Attributes:
        weights: (N, E) float32, rows sum to 1, zero but for K experts.
        experts: (N, K) the selected experts, in the order of their logits with
            the bias, if there is one.
        logits: (N, E) float32, as the gate made them, with noise if any.
        masked: (N, E) bool, experts that were not to be chosen.
        noise: (N, E) what of the logits is noise; None without.
        noise_scale: (N, E) standard deviation of that noise; None without.
    """
    weights: Tensor
    experts: Tensor
    logits: Tensor
    masked: Tensor
    noise: Optional[Tensor] = None
    noise_scale: Optional[Tensor] = None

    @property
    def changed(self) -> Tensor:
        """(N,) bool, whether a hard constraint changed the choice."""
        free, _ = select(self.logits, self.experts.shape[1])
        chosen = torch.zeros_like(self.masked).scatter(-1, self.experts, True)
        return ~chosen.gather(-1, free).all(dim=-1)

    def drawn(self, generator: torch.Generator) -> 'Routing':
        """The same weights, for K experts that are drawn for each sample."""
        lots = torch.rand(self.weights.shape, generator=generator)
        experts = lots.argsort(dim=-1)[:, :self.experts.shape[1]].to(
            self.experts.device)
        weights = torch.zeros_like(self.weights).scatter(
            -1, experts, self.weights.gather(-1, self.experts))
        return dataclasses.replace(self, weights=weights, experts=experts)

    def detach(self) -> 'Routing':
        """The same decision without its graph."""
        return self._rows(Tensor.detach)

    def __getitem__(self, rows) -> 'Routing':
        """The decision for some of the samples: a slice, or indices (n,)."""
        return self._rows(lambda t: t[rows])

    def to(self, *args, **kwargs) -> 'Routing':
        """As ``Tensor.to``, all tensors."""
        return self._rows(lambda t: t.to(*args, **kwargs))

    def split(self, sizes: Sequence[int]) -> Tuple['Routing', ...]:
        """Cut N into consecutive pieces."""
        ends = [sum(sizes[:i + 1]) for i in range(len(sizes))]
        return tuple(
            self[end - size:end] for size, end in zip(sizes, ends))

    @staticmethod
    def cat(parts: Sequence['Routing']) -> 'Routing':
        """Join decisions; the inverse of :meth:`split`."""
        columns = zip(*(part._values() for part in parts))
        return Routing(
            *(None if c[0] is None else torch.cat(c) for c in columns))

    def _values(self) -> list:
        return [getattr(self, field.name) for field in fields(self)]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> 'Routing':
        return Routing(
            *(None if v is None else change(v) for v in self._values()))


@dataclass(frozen=True)
class Forcing:
    """How the choice of a gate is overruled in evaluation.

    What is left is weighted by the softmax over its logits, so the weights of
    a sample still sum to 1.

    Attributes:
        top_k: K', experts per sample; as trained if None.
        expert: The only expert that is run; None for the gate's choice.
        drop: An expert, or several, that are not run.
        replace: Two experts: what the first one is selected for goes to the
            second one, with the same weight.
        random_routing: Seed, if the experts of each sample are drawn at random.
            The gate only weighs the first, the second and so on. Used alone.
        generator: What they are drawn with, call after call, so that no call
            repeats the draw of another one.
    """
    top_k: Optional[int] = None
    expert: Optional[int] = None
    drop: Union[int, Sequence[int]] = ()
    replace: Sequence[int] = ()
    random_routing: Optional[int] = None
    generator: Optional[torch.Generator] = field(
        default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        drop = (self.drop, ) if isinstance(self.drop, int) else self.drop
        for key, value, allowed in (
            ('drop', drop, 'an expert, or a list of them'),
            ('replace', self.replace, 'two experts')):
            if not isinstance(value, (list, tuple)):
                fail(key, value, allowed)
            object.__setattr__(self, key, tuple(value))
        if self.random_routing is not None:
            seed = check_int('random_routing', self.random_routing, 0)
            object.__setattr__(self, 'generator',
                               torch.Generator().manual_seed(seed))

    def choice(self, top_k: int, num_experts: int) -> Tuple[int, Tensor]:
        """What it means for a layer of E experts, trained with K.

        Returns:
            K', and (E,) bool, the experts that may not be chosen.

        Raises:
            ValueError: There is no such expert, none is left, or the options
                contradict each other.
        """
        last = num_experts - 1
        if self.random_routing is not None and (
                self != Forcing(random_routing=self.random_routing)):
            fail('random_routing', self.random_routing, 'used alone')
        if self.replace:
            if len(self.replace) != 2 or len(set(self.replace)) < 2:
                fail('replace', self.replace, 'two experts')
            for e in self.replace:
                check_int('replace', e, 0, last)
        drop = {check_int('drop', e, 0, last) for e in self.drop}
        if self.expert is not None:
            check_int('expert', self.expert, 0, last)
            if drop or self.top_k is not None:
                fail('expert', self.expert, 'used without top_k and drop')
            drop = set(range(num_experts)) - {self.expert}
        left = num_experts - len(drop)
        if left == 0:
            fail('drop', self.drop, f'fewer than all {num_experts} experts')
        if self.top_k is not None:
            check_int('top_k', self.top_k, 1, left)
        return (min(top_k if self.top_k is None else self.top_k, left),
                torch.tensor([e in drop for e in range(num_experts)]))

    def overruled(self, routing: Routing) -> Routing:
        """The decision with the one expert in the place of the other, or with
        experts that are drawn."""
        if self.random_routing is not None:
            return routing.drawn(self.generator)
        if not self.replace:
            return routing
        old, new = self.replace
        weights = routing.weights.clone()
        weights[:, new] += weights[:, old]
        weights[:, old] = 0
        experts = routing.experts.masked_fill(routing.experts == old, new)
        return dataclasses.replace(routing, weights=weights, experts=experts)


def select(logits: Tensor, top_k: int) -> Tuple[Tensor, Tensor]:
    """The K experts with the largest logits, and these: (N, E) -> 2 (N, K).

    Equal logits are taken in the order of the expert index, so that routing
    is deterministic.
    """
    # ONNX has no stable sort.
    if 4 * top_k >= logits.shape[-1] and not recorded_as_a_graph():
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        return order[:, :top_k], ordered[:, :top_k]
    # A few out of many: to look for each of them costs less than to sort all.
    # What is found goes below all others, also below masked ones.
    rest, found = logits.detach().clamp(torch.finfo(logits.dtype).min), []
    for _ in range(top_k):
        found.append(rest.argmax(dim=-1, keepdim=True))  # the first of equals
        rest.scatter_(-1, found[-1], float('-inf'))
    experts = torch.cat(found, dim=-1)
    return experts, logits.gather(-1, experts)


def softmax(kept: Tensor) -> Tensor:
    """Logits of the K selected experts (N, K) -> their weights."""
    return kept.softmax(dim=-1)


def sigmoid(kept: Tensor) -> Tensor:
    """Sigmoids of the selected logits (N, K), divided by their sum.

    In logarithms, so that very small ones keep their ratio. DeepSeek-V3
    (arXiv 2412.19437), section 2.1.2.
    """
    return F.logsigmoid(kept).softmax(dim=-1)


#: By name, what makes weights of the logits of the selected experts.
ROUTING_FUNCTIONS = dict(softmax=softmax, sigmoid=sigmoid)


def top_k_routing(logits: Tensor,
                  top_k: int,
                  masked: Optional[Tensor] = None,
                  *,
                  bias: Optional[Tensor] = None,
                  function: Callable[[Tensor], Tensor] = softmax,
                  noise: Optional[Tensor] = None,
                  noise_scale: Optional[Tensor] = None) -> Routing:
    """Keep the K largest logits of each row, and make weights of those K.

    Args:
        logits: (N, E), with the noise.
        top_k: K, at most the number of experts that are not masked.
        masked: (E,) bool, experts that may not be chosen; none if None.
        bias: (E,) added to the logits for the selection only; 0 if None.
        function: Out of ``ROUTING_FUNCTIONS``.
        noise, noise_scale: (N, E), kept with the decision.
    """
    open_logits = logits if bias is None else logits.detach() + bias
    if masked is None:
        masked = torch.zeros_like(logits, dtype=torch.bool)
    else:
        masked = masked.expand(logits.shape)
        open_logits = open_logits.masked_fill(masked, float('-inf'))
    experts, kept = select(open_logits, top_k)
    if bias is not None:
        kept = logits.gather(-1, experts)
    weights = torch.zeros_like(logits).scatter(-1, experts, function(kept))
    return Routing(weights, experts, logits, masked, noise, noise_scale)
