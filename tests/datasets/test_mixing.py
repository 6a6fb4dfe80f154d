"""Several data sets as one: what they say stays what it was."""
import json

import pytest

from mmdet_moe.datasets.mixing import mix_domains
from mmdet_moe.files import DataError


def write(path, images, categories, annotations):
    path.write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=9, height=9)
                for i in images],
        categories=[dict(id=c, name=n) for c, n in categories.items()],
        annotations=[dict(id=k, image_id=i, category_id=c, area=1,
                          bbox=[0, 0, 1, 1])
                     for k, (i, c) in enumerate(annotations)])))
    return str(path)


def test_two_domains(tmp_path):
    cells = write(tmp_path / 'a.json', [0, 7], {3: 'red'}, [(7, 3), (0, 3)])
    cars = write(tmp_path / 'b.json', [7], {3: 'red', 1: 'blue'}, [(7, 1)])
    mixed = mix_domains([('cells', cells, 'cells'),
                         ('cars', cars, '../cars/images')])
    names = {c['id']: c['name'] for c in mixed['categories']}
    files = {i['id']: (i['file_name'], i['domain']) for i in mixed['images']}
    said = [(a['id'], names[a['category_id']], *files[a['image_id']])
            for a in mixed['annotations']]
    assert said == [
        (1, 'cells:red', 'cells/7.jpg', 'cells'),
        (2, 'cells:red', 'cells/0.jpg', 'cells'),
        (3, 'cars:blue', '../cars/images/7.jpg', 'cars')
    ]
    assert len(files) == len(names) == 3


@pytest.mark.parametrize('content, message', [
    (None, 'cannot be read'),
    ('{}', 'is not in COCO format'),
    ('{"images": [], "annotations": [], "categories": []}', 'no picture'),
    ('{"images": [{"id": 1}], "annotations": [], "categories": []}',
     "no list of images with 'file_name' in each"),
    ('{"images": [{"id": 1, "file_name": "x"}], "annotations": '
     '[{"id": 5, "image_id": 2}], "categories": []}',
     'the annotation 5 is of a picture'),
])
def test_bad_files_are_named(tmp_path, content, message):
    file = tmp_path / 'bad.json'
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=f'bad.json.*{message}'):
        mix_domains([('a', str(file), 'a')])


def test_names_are_different():
    with pytest.raises(DataError, match='two domains have the name a'):
        mix_domains([('a', 'one', ''), ('a', 'other', '')])
