import json

import pytest
import torch

from mmdet_moe.datasets.domains import DomainCocoDataset
from mmdet_moe.evaluation import DomainCocoMetric
from mmdet_moe.files import DataError

BOX = [10.0, 10.0, 50.0, 40.0]


def write(path, *domains):
    """A picture of each domain; the class of its object is its number."""
    path.write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=99, width=99,
                     **({} if d is None else dict(domain=d)))
                for i, d in enumerate(domains)],
        annotations=[dict(id=i + 1, image_id=i, category_id=i % 2, iscrowd=0,
                          bbox=[10, 10, 40, 30], area=1200)
                     for i in range(len(domains))],
        categories=[dict(id=0, name='cat'), dict(id=1, name='dog')])))
    return str(path)


def evaluate(path, *found, **options):
    """Whether the object of each picture is found, with another one of the
    other class that is not there."""
    metric = DomainCocoMetric(ann_file=path, **options)
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    for i, there in enumerate(found):
        boxes = torch.tensor([BOX, BOX] if there else []).reshape(-1, 4)
        metric.process({}, [dict(
            img_id=i, ori_shape=(99, 99), gt_instances=dict(),
            pred_instances=dict(
                bboxes=boxes, scores=torch.tensor([0.9, 0.8])[:len(boxes)],
                labels=torch.tensor([i % 2, 1 - i % 2])[:len(boxes)]))])
    return metric.evaluate(len(found))


def test_ap_by_domain(tmp_path):
    path = write(tmp_path / 'a.json', 'sea', 'air', 'sea', 'air')
    figures = evaluate(path, True, False, True, False)
    # In the sea there are cats only, all found; in the air nothing is.
    assert figures['coco/sea/bbox_mAP'] == pytest.approx(1)
    assert figures['coco/air/bbox_mAP'] == 0
    assert figures['coco/domains/bbox_mAP'] == pytest.approx(0.5)
    # Of the cats all are found, of the dogs none.
    assert figures['coco/bbox_mAP'] == pytest.approx(0.5)
    # a size that no domain has
    assert figures['coco/domains/bbox_mAP_l'] == -1
    # the whole is as CocoMetric has it, and so it is the second time
    again = evaluate(path, True, True, True, True,
                     outfile_prefix=str(tmp_path / 'out'))
    assert again['coco/air/bbox_mAP'] == pytest.approx(1)
    # four pictures, two boxes each
    assert len(json.loads((tmp_path / 'out.bbox.json').read_text())) == 8
    assert evaluate(path, False, False, False, False) == {}
    for key, value in dict(metric='proposal', metric_items=['mAP']).items():
        with pytest.raises(ValueError, match=f'DomainCocoMetric.{key}='):
            DomainCocoMetric(ann_file=path, **{key: value})


def test_pictures_without_a_domain(tmp_path):
    path = write(tmp_path / 'a.json', 'sea', None)
    with pytest.raises(DataError, match="a.json: the picture 1.jpg has no"):
        DomainCocoMetric(ann_file=path)
    with pytest.raises(ValueError, match='ann_file=None'):
        DomainCocoMetric()
    options = dict(pipeline=[], data_prefix=dict(img=''),
                   metainfo=dict(classes=('cat', 'dog')))
    with pytest.raises(DataError, match="1.jpg has no 'domain'"):
        DomainCocoDataset(ann_file=path, **options)
    path = write(tmp_path / 'b.json', 'sea', 'air')
    data = DomainCocoDataset(ann_file=path, **options)
    assert [data.get_data_info(i)['domain'] for i in range(2)] == ['sea', 'air']
