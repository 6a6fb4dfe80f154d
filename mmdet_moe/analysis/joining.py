"""Records, made of what is known about the pictures."""
from typing import Dict, List, Sequence, Tuple

import numpy as np

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError

from .collect import AS_IT_IS, Collector, seen
from .layer_record import LayerRecord, layer_record
from .parts import Nest
from .records import Picture, Records, Things
from .subjects import GroupOf


def make_records(collector: Collector, known: Nest) -> Records:
    """Make records of what is known about the pictures.

    It does not matter which process knows it, nor in which order the pictures
    were seen.

    Args:
        collector: Of the same model, pictures and interventions as those that
            saw the pictures.
        known: What :meth:`.Collector.process` gave, joined. The metric reads
            from it when it is computed.

    Raises:
        ValueError: Nothing is known about any MoE layer.
        DataError: Nothing is known about some pictures.
    """
    index = seen(known)
    if not np.array_equal(np.sort(index), np.arange(len(collector.index))):
        raise DataError(
            f'of {len(collector.index)} test pictures {len(set(index))} were '
            'seen; test_dataloader must give each of them, once')
    left_out = {
        name: str(why[0])
        for name, why in known.get('undecided', {}).items()
    }
    names = [
        name for name in collector.layers
        if name in known.get('layers', {}) and name not in left_out
    ]
    if not names:
        raise ConfigError(
            'there is nothing to report about any MoE layer of the model; '
            + '; '.join(f'{name}: {why}' for name, why in left_out.items()))
    pictures = _pictures(collector, **known['pictures'])
    groupings = _groupings(collector, pictures)
    labelled, predicted = (
        _in_order(known[kind], index, {
            name: known['layers'][name]['rows'] for name in names
        }, groupings) for kind in ('labelled', 'predicted'))
    by_picture = np.argsort(known['labelled']['picture'], kind='stable')
    over, features = ({
        name: known['layers'][name][key][by_picture] for name in names
        if key in known['layers'][name]
    } for key in ('over', 'features'))
    metric = collector.subject.metric(known['outcomes'][AS_IT_IS])
    return Records(
        pictures=pictures,
        shown=sorted(map(int, known.get('shown', {}))),
        groupings={by: names for by, (names, _) in groupings.items()},
        layers={
            name: _layer(collector.layers[name], known['layers'][name],
                         np.argsort(index), {
                             int(picture): layers[name] for picture, layers in
                             known.get('shown', {}).items()
                         })
            for name in names
        },
        labelled=labelled,
        over=over,
        features=features,
        predicted=predicted,
        metric=metric,
        interventions={
            intervention: metric if collector.changes_nothing(intervention)
            else collector.subject.metric(known['outcomes'][str(n)])
            for n, intervention in enumerate(collector.interventions)
            if intervention.layer in names
        },
        lines=known['lines'][by_picture].tolist(),
        levels_by=next((str(by) for by in known['levels_by'] if by), None),
        left_out=left_out)


def _pictures(collector: Collector, index: np.ndarray, path: np.ndarray,
              height: np.ndarray, width: np.ndarray) -> List[Picture]:
    """The test pictures in their order."""
    img_ids, domains = collector.subject.img_ids, collector.subject.domains()
    return [
        Picture(img_ids[index[n]], str(path[n]), int(height[n]), int(width[n]),
                domains[index[n]])
        for n in np.argsort(index)
    ]


def _layer(layer: MoELayer, kept: Nest, order: np.ndarray,
           shown: Dict[int, Nest]) -> LayerRecord:
    """What a layer decided, with all that it decided about some pictures."""
    return layer_record(
        kept,
        order,
        top_k=layer.top_k,
        chooses=layer.chooses,
        grids={
            picture: [own['maps'][str(m)] for m in range(len(own['maps']))]
            for picture, own in shown.items() if 'maps' in own
        },
        frames={picture: own['frame'] for picture, own in shown.items()})


def _groupings(collector: Collector, pictures: Sequence[Picture]
               ) -> Dict[str, Tuple[List[str], GroupOf]]:
    """What things are grouped by: the names of the groups, and what tells the
    group of each."""
    found = collector.subject.groupings(collector.levels)
    domains = sorted({p.domain for p in pictures} - {None})
    of_picture = np.array(
        [-1 if p.domain is None else domains.index(p.domain)
         for p in pictures])
    if len(domains) > 1:  # one tells nothing
        found['domain'] = (domains,
                           lambda columns: of_picture[columns['picture']])
    return {by: (names, group)
            for by, (names, group) in found.items() if names}


def _in_order(columns: Nest, index: np.ndarray, rows: Dict[str, np.ndarray],
              groupings: Dict[str, Tuple[List[str], GroupOf]]) -> Things:
    """Things by picture, with the rows of the layers' records that they are
    under.

    Args:
        columns: As they were appended.
        index: (I,) which picture each of those was, in the same order.
        rows: By layer (I,) how many rows of the record are of each.
        groupings: As of :func:`_groupings`.
    """
    nth = np.argsort(index)[columns['picture']]  # as they were appended
    under = {}
    for name, number in rows.items():
        own = columns['under'][name]
        before = np.cumsum(number) - number
        under[name] = np.where(own >= 0, own + before[nth], -1)
    things = Things(
        columns['picture'], columns.get('box'),
        {by: group(columns) for by, (_, group) in groupings.items()},
        *(columns[name] for name in ('score', 'true')), under)
    return things[np.argsort(columns['picture'], kind='stable')]
