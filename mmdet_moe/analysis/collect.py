"""One run over the test pictures: predictions, decisions, interventions."""
from typing import Collection, Container, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.runner import Runner
from torch import nn
from tqdm import tqdm

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer, moe_layers, rows_at
from mmdet_moe.models.reporting import report_decisions

from .interventions import Intervention
from .kept import outputs_kept
from .layer_record import grids_of, observe
from .parts import Nest, Parts
from .subjects import Located, Subject

#: Of the outcome without an intervention, whose key is its number otherwise.
AS_IT_IS = 'none'


class Collector:
    """Runs a model batch by batch and keeps what the report needs.

    What is kept of a picture are no pixels and no maps, but what its
    decisions add up to, those about what is annotated and predicted, and for
    each intervention what the metric needs. Only of the pictures to be shown
    all decisions are kept.

    Args:
        model: With MoE layers, in evaluation mode.
        subject: What its decisions are about.
        interventions: What to run besides the model as it is.
        shown: Pictures whose whole decisions are kept, by their index.
    """

    def __init__(self, model: nn.Module, subject: Subject, *,
                 interventions: Sequence[Intervention],
                 shown: Collection[int] = ()) -> None:
        self.model, self.subject = model, subject
        self.index = {img_id: n for n, img_id in enumerate(subject.img_ids)}
        self.layers = moe_layers(model)
        report_decisions(model)
        model.decision_reporter.features = True
        self.levels = model.decision_reporter.provenance.num_levels
        self.interventions, self.shown = list(interventions), shown

    @torch.no_grad()
    def process(self, batch: dict) -> List[Nest]:
        """Run the model on a batch, once as it is and once for each
        intervention; what does not depend on it is run once.

        Returns:
            What is known about each picture.

        Raises:
            DataError: A gate gives NaN.
        """
        data = self.model.data_preprocessor(batch, False)
        device = next(self.model.parameters()).device
        for sample in data['data_samples']:
            self.subject.prepare(sample, device)
        number = self._index(data['data_samples'][0])
        with outputs_kept(self.model, self._overruled()) as kept:
            samples = self.model(**data, mode='predict')
            self._check(samples)
            parts = [self._seen(sample) for sample in samples]
            undecided = samples[0].undecided
            for sample in data['data_samples']:
                self.subject.forget(sample)
            for n, intervention in enumerate(self.interventions):
                if self.changes_nothing(intervention) or (
                        intervention.layer in undecided):
                    continue
                with self.model.decision_reporter.paused(), \
                        kept.overruled(intervention.layer), \
                        intervention.applied(self.model, number):
                    samples = self.model(**data, mode='predict')
                for part, sample in zip(parts, samples):
                    _, part['outcomes'][str(n)] = self.subject.predicted(sample)
        return parts

    def _index(self, sample) -> int:
        return self.index[self.subject.id_of(sample)]

    def _check(self, samples: list) -> None:
        for sample in samples:
            for name, decision in sample.decisions.items():
                if decision.weights.isnan().any():
                    raise DataError(
                        f'the gate of {name} gives NaN for a picture out of ' +
                        ', '.join(map(self._name, samples)) +
                        '; are there NaNs in the checkpoint?')

    def _name(self, sample) -> str:
        """Its file, if it has one."""
        return str(sample.metainfo.get('img_path') or
                   self.subject.id_of(sample))

    def _overruled(self) -> Dict[str, MoELayer]:
        return {i.layer: self.layers[i.layer] for i in self.interventions}

    def changes_nothing(self, intervention: Intervention) -> bool:
        """Whether the model is run in this way anyhow."""
        layer = self.layers[intervention.layer]
        return (intervention.kind == 'top_k' and layer.forcing is None
                and intervention.value == layer.top_k)

    def _seen(self, sample) -> Nest:
        """What is kept of a picture, as the model is."""
        subject, index = self.subject, self._index(sample)
        labelled = subject.labelled(sample)
        predicted, outcome = subject.predicted(sample)
        height, width = sample.metainfo.get(
            'ori_shape', sample.img_shape)[:2]
        layers, weights, under, shown = {}, {}, {}, {}
        for name, decision in sample.decisions.items():
            rows = subject.rows(decision)
            at = labelled.under(decision)
            layers[name], under[name] = observe(
                decision, (at, predicted.under(decision)), rows.weights,
                rows.logits)
            index_at = torch.from_numpy(at)
            weights[name] = rows_at(rows.weights, index_at).numpy()
            layers[name]['features'] = rows_at(
                rows.features, index_at).numpy()
            over = labelled.over(decision)
            if over is not None:
                layers[name]['over'] = over
            if index in self.shown:
                shown[name] = dict(
                    maps=grids_of(decision),
                    frame=np.array([decision.start, decision.extent or (
                        height, width)]))
        return dict(
            pictures=dict(
                index=np.array([index]),
                path=np.array([self._name(sample)]),
                height=np.array([height]),
                width=np.array([width])),
            levels_by=np.array([subject.levels_by(sample)]),
            undecided={
                name: np.array([why])
                for name, why in sample.undecided.items()
            },
            labelled=_things(labelled, index, under, 0),
            predicted=_things(predicted, index, under, 1),
            lines=np.array(subject.lines(sample, labelled, weights), str),
            layers=layers,
            shown={str(index): shown} if shown else {},
            outcomes={AS_IT_IS: outcome})


def seen(known: Nest) -> np.ndarray:
    """(n,) the indices of the pictures that something is known about."""
    return known.get('pictures', {}).get('index', np.empty(0, int))


def collect(runner: Runner, collector: Collector, parts: Parts) -> None:
    """Run the model of a runner over its test pictures, those that this
    process has and that are not known yet.

    Args:
        runner: With its checkpoint loaded.
        collector: Of its model.
        parts: Where what is known is kept.

    Raises:
        DataError: A gate gives NaN.
    """
    collector.model.eval()
    rank, processes = get_dist_info()
    known = set(seen(parts.read()).tolist())
    mine = {
        img_id for img_id, index in collector.index.items()
        # A sampler gives some pictures twice, so that all have as many.
        if index % processes == rank and index not in known
    }
    with tqdm(total=len(mine), unit='picture', disable=rank > 0) as bar:
        for batch in runner.test_dataloader:
            some = _only(batch, mine, collector.subject)
            for part in [] if some is None else collector.process(some):
                parts.add(part)
                bar.update()
    parts.write()


def _only(batch: dict, img_ids: Container,
          subject: Subject) -> Optional[dict]:
    """A batch of only some of its pictures; None if there is none of them."""
    wanted = [
        (picture, sample)
        for picture, sample in zip(batch['inputs'], batch['data_samples'])
        if subject.id_of(sample) in img_ids
    ]
    if not wanted:
        return None
    inputs, samples = zip(*wanted)
    return dict(inputs=list(inputs), data_samples=list(samples))


def evenly_spaced(total: int, number: int) -> List[int]:
    """``number`` of the indices from 0 to ``total`` - 1, at most all."""
    return np.unique(
        np.linspace(0, total - 1, min(number, total)).round()).astype(
            int).tolist()


def _things(things: Located, index: int, under: Dict[str, list],
            which: int) -> Nest:
    """The columns of things of a picture, with the rows of its decisions that
    they are under."""
    return dict(
        things.columns,
        picture=np.full(len(things), index, np.int32),
        under={name: own[which] for name, own in under.items()})
