"""Which decisions are shown, and where."""
import numpy as np
import pytest
from planted import records

from mmdet_moe.analysis.embedding import embed


@pytest.mark.parametrize('method', ['tsne', 'pca'])
def test_levels_are_apart_in_the_embedding(tmp_path, method):
    embedding = embed(records(tmp_path), 'moe', method=method)
    group, names = embedding.groups['level']
    assert len(embedding.points) == 48 and names == ['level 0', 'level 1']
    assert np.isfinite(embedding.points).all()
    spread = embedding.points[group == 1].std(axis=0).max()
    assert spread < embedding.points[group == 0].std(axis=0).max()


def test_nothing_to_embed(tmp_path):
    assert embed(records(tmp_path, constant=True), 'moe') is None
    assert embed(records(tmp_path, pictures=4), 'moe') is None
