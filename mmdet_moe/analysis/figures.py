"""Numbers -> figures, for print and for the page."""
import base64
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.files import replacing
from mmdet_moe.sizes import SIZES

from .attempts import Attempts
from .embedding import Embedding
from .training_log import TrainingLog

COLOURS = [tuple(c / 255 for c in colour) for colour in EXPERT_COLOURS]
#: Groups of a heat map at most; a table has them all.
MOST_GROUPS = 20
#: Groups with a colour of their own among dots.
MOST_DOTS = 7


@dataclass(frozen=True)
class Illustration:
    """A figure, for all readers.

    Attributes:
        name: Of the files.
        title: Below the figure.
        alt: What it shows, in words.
        figure: It.
        on_page: False if the page has the same as a table.
    """
    name: str
    title: str
    alt: str
    figure: Figure
    on_page: bool = True

    @cached_property
    def svg_url(self) -> str:
        """It as the source of an image of a page."""
        file = io.BytesIO()
        self.figure.savefig(file, format='svg', bbox_inches='tight', dpi=150)
        return ('data:image/svg+xml;base64,' +
                base64.b64encode(file.getvalue()).decode())

    def save(self, folder: Path) -> List[Path]:
        """Write it as PNG and PDF."""
        paths = [folder / f'{self.name}.{kind}' for kind in ('png', 'pdf')]
        for path in paths:
            with replacing(path, 'wb') as file:
                self.figure.savefig(file, format=path.suffix[1:], dpi=200,
                                    bbox_inches='tight')
        return paths


def illustrate(tables: dict, embeddings: Dict[str, Optional[Embedding]],
               log: Optional[TrainingLog], folder: Path,
               attempt: Optional[Attempts] = None
               ) -> Dict[str, List[Illustration]]:
    """Write all figures of a report to a folder.

    Args:
        tables: The numbers of the report.
        embeddings: By MoE layer its gate logits in two dimensions, if any.
        log: Of the training, if any.
        folder: Of the files.
        attempt: Calls what makes a figure. One that fails is left out.

    Returns:
        By MoE layer those that were written; ``''`` for the whole model.
    """
    attempt = Attempts() if attempt is None else attempt

    def made(name: str, *makers: tuple) -> List[Illustration]:
        what = f'A figure of {name}' if name else 'A figure of the training'
        figures = sum((attempt(what, _listed, *maker, default=[])
                       for maker in makers), [])
        return [one for one in figures if attempt(
            f'The figure {one.name}', one.save, folder)]

    figures = {}
    for name, table in tables['layers'].items():
        rows = [r for r in tables['interventions'] if r['layer'] == name]
        makers = [
            (usage_figure, name, table),
            (assignment_figures, name, table),
            (interventions_figures, name, rows, tables['words']),
        ]
        if embeddings.get(name) is not None:
            makers.append((embedding_figure, name, embeddings[name]))
        if log is not None and name in log.importance:
            makers.append((training_figure, name, log))
        figures[name] = made(name, *makers)
    figures[''] = [] if log is None else made('', (_over_validations, log))
    return figures


def _listed(make: Callable, *args) -> List[Illustration]:
    """What makes a figure, or several, as a list."""
    made = make(*args)
    return [made] if isinstance(made, Illustration) else list(made)


def plain(text: str) -> str:
    """A name as matplotlib draws it: dollars begin no formula, an underscore
    at the beginning does not keep it out of a legend, and half of a surrogate
    pair is written in ASCII."""
    text = text.encode(errors='backslashreplace').decode().replace('$', r'\$')
    return f' {text}' if text.startswith('_') else text


def usage_figure(name: str, table: dict) -> Illustration:
    """Importance and share of each expert with their intervals."""
    figure = Figure((6.4, 2.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    for axes, key, even in ((left, 'importance', 1 / table['experts']),
                            (right, 'share',
                             table['top_k'] / table['experts'])):
        _bars(axes, table[key], table['intervals'][key])
        axes.axhline(even, color='0.3', linewidth=1, linestyle='--')
        axes.set(title=key, xlabel='expert', ylim=(0, None))
    return Illustration(
        f'{name}_usage', f'Importance and share: {name}',
        f'Bars for each expert of {name}. ' + '; '.join(
            f'expert {e}: importance {i:.2f}, share {s:.2f}'
            for e, (i, s) in enumerate(
                zip(table['importance'], table['share']))), figure)


def assignment_figures(name: str, table: dict) -> Iterator[Illustration]:
    """A heat map for each grouping."""
    for by, rows in table['labelled'].items():
        if by == 'unassigned':
            continue
        groups = {
            group: row for group, row in rows.items() if row['count']
        }
        if not groups:
            continue
        shown = sorted(groups, key=lambda g: -groups[g]['count'])[:MOST_GROUPS]
        shown = [group for group in groups if group in shown]
        values = np.array([groups[group]['weight'] for group in shown]).T
        figure = Figure((1.6 + 0.75 * len(shown), 1 + 0.4 * len(values)),
                        layout='constrained')
        axes = figure.subplots()
        _heat(axes, values, [
            plain(f'{group}\n({groups[group]["count"]})') for group in shown
        ])
        leading = ', '.join(f'{group}: expert {values[:, i].argmax()}'
                            for i, group in enumerate(shown))
        yield Illustration(
            f'{name}_{by}', f'Expert weight by {by}: {name}',
            f'Heat map of the mean weight of each expert by {by}. Highest '
            f'weight, {leading}.', figure, on_page=False)


def interventions_figures(name: str, rows: Sequence[dict],
                          words: dict) -> Iterator[Illustration]:
    """What the metric loses or gains, and the metric over K'."""
    metric = words['metric']
    keys = (metric, *words['parts'])
    changes = [row for row in rows if row['kind'] in ('expert', 'drop')]
    if changes:
        labels = [
            f'{row["value"]} alone' if row['kind'] == 'expert' else
            f'without {row["value"]}' for row in changes
        ]
        figure = Figure((8, 1 + 0.28 * len(changes)), layout='constrained')
        panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for axes, key in zip(panels, keys):
            for y, row in enumerate(changes):
                _dot(axes, row['difference'][key], y,
                     COLOURS[row['value'] % len(COLOURS)],
                     'o' if row['kind'] == 'expert' else 's')
            axes.axvline(0, color='0.3', linewidth=1)
            axes.set(title=key, xlabel='points')
            axes.grid(axis='x', color='0.9')
        panels[0].set(yticks=range(len(labels)), yticklabels=labels)
        panels[0].invert_yaxis()
        yield Illustration(
            f'{name}_interventions',
            f'Change of {metric} with experts alone, or without them: {name}',
            f'Change of {metric} in points. ' + '; '.join(
                f'{label}: {100 * row["difference"][metric]["value"]:+.1f}'
                for label, row in zip(labels, changes)
                if row['difference'][metric]['value'] is not None), figure)
    curve = [row for row in rows if row['kind'] == 'top_k']
    if curve:
        figure = Figure((4.2, 2.8), layout='constrained')
        axes = figure.subplots()
        x = [row['value'] for row in curve]
        for key, marker in zip(keys, 'osv^'):
            values = np.array([
                np.nan if row['metrics'][key]['value'] is None else 100 *
                row['metrics'][key]['value'] for row in curve
            ])
            if not np.isnan(values).all():
                axes.plot(x, values, marker=marker, label=key)
        trained = [row['value'] for row in curve if row['as_trained']]
        for value in trained:
            axes.axvline(value, color='0.7', linestyle='--', linewidth=1)
        axes.set(xlabel="K', experts per sample", ylabel=f'{metric}, %',
                 xticks=x)
        axes.legend(fontsize='small')
        yield Illustration(
            f'{name}_top_k', f"{metric} over K', trained with K = "
            f'{", ".join(map(str, trained))}: {name}',
            f'{metric} for each number of experts. ' + '; '.join(
                f"K' = {row['value']}: "
                f'{100 * row["metrics"][metric]["value"]:.1f}'
                for row in curve
                if row['metrics'][metric]['value'] is not None),
            figure)


def embedding_figure(name: str, embedding: Embedding) -> Illustration:
    """The gate logits in two dimensions, coloured in several ways."""
    figure = Figure((4 * len(embedding.groups), 3.6), layout='constrained')
    panels = np.atleast_1d(figure.subplots(1, len(embedding.groups)))
    for axes, (by, (group, names)) in zip(panels, embedding.groups.items()):
        frequent = np.argsort(-np.bincount(group), kind='stable')[:MOST_DOTS]
        for colour, index in enumerate(np.unique(group[np.isin(
                group, frequent)])):
            _dots(axes, embedding.points[group == index],
                  plain(names[index]), f'C{colour}')
        _dots(axes, embedding.points[~np.isin(group, frequent)], 'other',
              '0.6')
        axes.set(title=f'by {by}', xticks=[], yticks=[])
        axes.legend(fontsize='x-small', markerscale=2)
    return Illustration(
        f'{name}_logits', f'Gate logits, {embedding.method}: {name}',
        f'{len(embedding.points)} decisions of {name} in two dimensions by '
        f'{embedding.method}, coloured by ' + ', '.join(embedding.groups) +
        ' of what is under them. The tables of mutual information say '
        'the same in numbers.', figure)


def training_figure(name: str, log: TrainingLog) -> Illustration:
    """Importance of each expert over the training."""
    steps, importance = log.importance[name]
    figure = Figure((6.4, 2.6), layout='constrained')
    axes = figure.subplots()
    for e, values in enumerate(importance.T):
        axes.plot(steps, values, color=COLOURS[e % len(COLOURS)],
                  label=f'expert {e}', linewidth=1)
    axes.set(xlabel='iteration', ylabel='importance', ylim=(0, None))
    if importance.shape[1] <= 8:
        axes.legend(fontsize='x-small', ncols=4)
    last = ', '.join(f'{e}: {x:.2f}' for e, x in enumerate(importance[-1]))
    return Illustration(
        f'{name}_training', f'Importance in training: {name}',
        f'Lines of the importance of each expert over {len(steps)} logged '
        f'steps; at the end expert {last}.', figure)


def comparison_figure(runs: Sequence[dict]) -> Illustration:
    """The metric over how evenly the experts are used, a point per run and
    layer."""
    figure = Figure((6, 3.6), layout='constrained')
    axes = figure.subplots()
    metric, said = runs[0]['words']['metric'], []
    for i, run in enumerate(runs):
        reached = run['metrics'][metric]['value']
        if reached is None:
            continue
        said.append(f'{run["name"]}: {metric} {100 * reached:.1f}')
        if not run['layers']:
            axes.axhline(100 * reached, color=f'C{i % 10}', linestyle='--',
                         label=plain(run['name']))
        points = [(layer['importance_cv'], 100 * reached)
                  for layer in run['layers'].values()]
        if points:
            axes.scatter(*zip(*points), color=f'C{i % 10}',
                         label=plain(run['name']))
    axes.set(xlabel='CV of importance (0: all experts alike)',
             ylabel=f'{metric}, %')
    axes.legend(fontsize='small')
    return Illustration(
        'tradeoff', f'{metric} over utilisation',
        f'{metric} over the coefficient of variation of the importance. ' +
        '; '.join(said), figure)


def _over_validations(log: TrainingLog) -> Iterator[Illustration]:
    """Mean weight of the objects of each size at each validation."""
    for name, (steps, weights) in log.sizes.items():
        if len(steps) < 2:
            continue
        figure = Figure((8, 2.6), layout='constrained')
        panels = figure.subplots(1, len(SIZES), sharey=True)
        for s, axes in enumerate(panels):
            for e in range(weights.shape[1]):
                axes.plot(steps, weights[:, e, s], marker='.',
                          color=COLOURS[e % len(COLOURS)],
                          label=f'expert {e}')
            axes.set(title=SIZES[s], xlabel='logged step', ylim=(0, 1))
        panels[0].set(ylabel='mean weight')
        if weights.shape[1] <= 8:
            panels[-1].legend(fontsize='x-small')
        yield Illustration(
            f'{name}_sizes_training', f'Expert weight by size over the '
            f'training: {name}',
            f'Mean weight of each {name} expert for small, medium and large '
            f'objects at {len(steps)} validations.', figure)


def _bars(axes: Axes, values: Sequence[float],
          intervals: Sequence[Optional[dict]]) -> None:
    for e, (value, range_) in enumerate(zip(values, intervals)):
        axes.bar(e, value, color=COLOURS[e % len(COLOURS)])
        if range_ is not None:
            axes.vlines(e, range_['low'], range_['high'], color='k')
    if len(values) <= 16:
        axes.set_xticks(range(len(values)))


def _dots(axes: Axes, points: np.ndarray, label: str, colour: str) -> None:
    # as an image: thousands of shapes are slow to show
    if len(points):
        axes.scatter(*points.T, s=8, label=label, alpha=0.7, color=colour,
                     linewidths=0, rasterized=True)


def _dot(axes: Axes, figure: dict, y: int, colour, marker: str) -> None:
    if figure['value'] is None:
        return
    if figure['interval'] is not None:
        axes.hlines(y, 100 * figure['interval']['low'],
                    100 * figure['interval']['high'], color=colour)
    axes.plot(100 * figure['value'], y, marker=marker, color=colour,
              markeredgecolor='k', markeredgewidth=0.5)


def _heat(axes: Axes, values: np.ndarray, groups: Sequence[str]) -> None:
    axes.imshow(values, vmin=0, vmax=1, cmap='Blues', aspect='auto')
    for (e, g), value in np.ndenumerate(values):
        axes.text(g, e, f'{100 * value:.0f}', ha='center', va='center',
                  color='w' if value > 0.75 else 'k', fontsize='small')
    axes.set(xticks=range(len(groups)), yticks=range(len(values)),
             ylabel='expert')
    axes.set_xticklabels(groups, fontsize='small')
