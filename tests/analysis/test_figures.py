"""Names of people's own in figures."""
import pytest

from mmdet_moe.analysis.figures import comparison_figure

WORDS = dict(metric='AP')


@pytest.mark.parametrize('names, drawn', [
    (['a$}$b', 'cash_$$'], ['a\\$}\\$b', 'cash_\\$\\$']),
    (['_background_', 'plain'], [' _background_', 'plain']),
    (['cut \ud83d', 'one $'], ['cut \\ud83d', 'one \\$']),
])
def test_names_are_drawn_as_they_are(tmp_path, names, drawn):
    figure = comparison_figure([
        dict(name=name, words=WORDS, metrics=dict(AP=dict(value=0.5)),
             layers=dict(moe=dict(importance_cv=0.1))) for name in names])
    assert all(path.stat().st_size for path in figure.save(tmp_path))
    legend = figure.figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == drawn
