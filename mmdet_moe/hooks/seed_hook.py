import itertools
from typing import Optional, Sequence

from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader, Sampler

from .draws import Entropy, seed_all, seed_draws


@HOOKS.register_module()
class SeedHook(Hook):
    """Makes a training that was cut off and resumed what it would have been.

    What is random in an iteration, such as the noise of gates and dropout, is
    a function of the run's seed, the rank and the number of the iteration;
    what is random about a training sample, such as a flip, of the seed, the
    rank and the number of the draw. So no state of a generator has to be kept:
    a resumed run goes on with the same numbers, with as many workers as it
    likes, and whatever a validation or another hook has drawn meanwhile. Ranks
    draw different numbers.

    The seed is that of the config's ``randomness``, or the one that MMEngine
    drew and wrote into the checkpoint.

    What cannot be the same: a training that is cut off between two
    accumulated passes, or within an epoch (a checkpoint with ``by_epoch=False``
    of a loop by epochs: MMEngine begins the epoch anew); a data set that keeps
    pictures of earlier draws, as cached Mosaic does; and transforms with a
    generator of their own.
    """
    priority = 'VERY_HIGH'  # before others draw anything in an iteration

    def before_train(self, runner) -> None:
        seeds = [runner.seed]
        broadcast_object_list(seeds)  # MMEngine may have one for each rank
        self._seed = seeds[0]
        loader = runner.train_dataloader
        if loader.batch_sampler is None:  # a loader without batches
            return
        sampler = loader.batch_sampler.sampler
        if hasattr(sampler, 'seed'):
            # It was built before the seed of a checkpoint was known.
            sampler.seed = self._seed
        seed_draws(loader, self._start(runner, loader))
        _begin_anew(runner.train_loop, loader, sampler)

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        self.seed_iteration(runner.iter)

    def seed_iteration(self, iteration: int) -> None:
        """Draw what is drawn in an iteration of this run, counted from 0."""
        seed_all((self._seed, get_rank(), iteration))

    def _start(self, runner, loader: DataLoader):
        """What the seeds of the draws are made of, where the loader begins."""
        loop, times = runner.train_loop, itertools.count()

        def start() -> Entropy:
            run = self._seed, 1
            if isinstance(loop, EpochBasedTrainLoop):
                return (*run, loop.epoch, 0)
            if type(loader.batch_sampler) is BatchSampler and hasattr(
                    loader.sampler, 'skip'):
                # When it resumes, MMEngine has the sampler skip what was drawn.
                return (*run, 0, loop.iter * loader.batch_size)
            return (*run, next(times), 0)  # resuming draws it all once more

        return start


def _begin_anew(loop, loader: DataLoader, sampler: Sampler) -> None:
    """Forget what a loop of iterations has loaded already, without seeds.

    MMEngine 0.10.7 and before iterate the loader when the loop is built.
    """
    iterator = getattr(loop, 'dataloader_iterator', None)
    if getattr(iterator, '_iterator', None) is None:
        return
    if hasattr(sampler, '_indices_of_rank'):  # InfiniteSampler
        sampler.indices = sampler._indices_of_rank()
    # AspectRatioBatchSampler of MMDetection and the like
    for bucket in getattr(loader.batch_sampler, '_aspect_ratio_buckets', ()):
        bucket.clear()
    loader._iterator = None  # persistent workers
    loop.dataloader_iterator = type(iterator)(loader)
