"""Gates that are not trained: controls for those that are, and baselines."""
import torch
from torch import Tensor

from .checks import check_int
from .gates import GATES, GAPFCGate, Gate, global_average_pool


@GATES.register
class RandomGate(GAPFCGate):
    """Frozen: as :class:`GAPFCGate` is initialised, and never trained.

    What its experts tell of the objects is what any function of the features
    would tell: the control for a gate that has learned.
    """
    learned = False

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__(in_channels, num_experts)
        for name, value in list(self.named_parameters()):
            delattr(self, name)
            self.register_buffer(name, value.detach())


@GATES.register
class KMeansGate(Gate):
    """Static: the experts of the nearest of E clusters of pooled features.

    Logits are the negative squared distances to the clusters' centres, in
    units of the mean squared distance of a sample to the nearest. Whoever
    trains the model finds the clusters, and sets ``centroids`` and ``scale``;
    in a detector that is ``KMeansHook``.

    Raises:
        RuntimeError: When it is called before that.
    """
    learned = False
    takes_rows = True
    per_expert = ('centroids', )

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__(in_channels, num_experts)
        self.register_buffer('centroids',
                             torch.zeros(num_experts, in_channels))
        self.register_buffer('scale', torch.zeros(()))

    @property
    def fitted(self) -> bool:
        """Whether the clusters are known."""
        return bool(self.scale > 0)

    def features(self, x: Tensor) -> Tensor:
        return global_average_pool(x)

    def logits(self, features: Tensor) -> Tensor:
        if not self.fitted:
            raise RuntimeError(
                'KMeansGate does not know its clusters yet: KMeansHook finds '
                'them in a training, or they are in the checkpoint of one')
        # The other mode rounds differently for other numbers of samples.
        distances = torch.cdist(
            features, self.centroids.float(),
            compute_mode='donot_use_mm_for_euclid_dist')
        return -distances**2 / self.scale.float()


@GATES.register
class EqualGate(Gate):
    """Static: all logits equal, so the first K experts get 1/K each.

    With ``top_k = num_experts`` it is the plain mean of all experts.
    """
    learned = looks = False
    takes_rows = True
    per_expert = ()

    def features(self, x: Tensor) -> Tensor:
        return x.new_zeros((len(x), self.num_experts), dtype=torch.float)


@GATES.register
class SingleExpertGate(Gate):
    """Static: always the same expert, with weight 1.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
        expert: Which one.
    """
    learned = looks = False
    takes_rows = True
    never = -1e4  # exp of it is 0; finite, so that another can be forced

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 expert: int = 0) -> None:
        super().__init__(in_channels, num_experts)
        self.expert = check_int('expert', expert, 0, num_experts - 1)

    def features(self, x: Tensor) -> Tensor:
        logits = x.new_full((len(x), self.num_experts), self.never,
                            dtype=torch.float)
        logits[:, self.expert] = 0
        return logits
