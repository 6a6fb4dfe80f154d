"""Names of people's own in figures, and figures that fail."""
import numpy as np
import pytest
from planted import records

from mmdet_moe.analysis import figures
from mmdet_moe.analysis.attempts import Attempts
from mmdet_moe.analysis.resampling import bootstrap_counts
from mmdet_moe.analysis.tables import Options, layer_tables

WORDS = dict(metric='AP')


@pytest.mark.parametrize('names, drawn', [
    (['a$}$b', 'cash_$$'], ['a\\$}\\$b', 'cash_\\$\\$']),
    (['_background_', 'plain'], [' _background_', 'plain']),
    (['cut \ud83d', 'one $'], ['cut \\ud83d', 'one \\$']),
])
def test_names_are_drawn_as_they_are(tmp_path, names, drawn):
    figure = figures.comparison_figure([
        dict(name=name, words=WORDS, metrics=dict(AP=dict(value=0.5)),
             layers=dict(moe=dict(importance_cv=0.1))) for name in names])
    assert all(path.stat().st_size for path in figure.save(tmp_path))
    legend = figure.figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == drawn


def test_a_figure_that_fails_costs_itself_alone(tmp_path, monkeypatch):
    planted = records(tmp_path)
    table = layer_tables(
        planted, 'moe', correct=planted.predicted,
        counts=bootstrap_counts(24, 5, np.random.default_rng(0)),
        options=Options(permutations=9))
    attempt = Attempts()
    monkeypatch.setattr(figures, 'usage_figure', lambda *_: 1 / 0)
    made = figures.illustrate(
        dict(layers=dict(moe=table), interventions=[], words=dict(
            metric='AP', parts={})), {}, None, tmp_path, attempt)
    assert [one.name for one in made['moe']] == [
        f'moe_{by}' for by in table['labelled'] if by != 'unassigned']
    assert (tmp_path / 'moe_class.pdf').exists()
    assert attempt.failed == ['A figure of moe could not be made: '
                              'ZeroDivisionError: division by zero']
