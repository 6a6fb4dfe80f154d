"""Broken data: a training through it, or one line that says what is wrong."""
import json
import re
import shutil

import cv2
import numpy as np
import pytest
from command import MOE, on, tool

TINY = ('model.backbone.base_channels=8', 'model.backbone.stem_channels=8',
        'model.neck.in_channels=[8,16,32,64]', 'model.neck.out_channels=16',
        'model.bbox_head.in_channels=16', 'model.bbox_head.feat_channels=16',
        'model.bbox_head.stacked_convs=1', 'train_cfg.max_epochs=1',
        'visualizer.vis_backends=[]', 'val_cfg=None', 'val_evaluator=None',
        'val_dataloader=None')


class Data:
    """A data set to be broken: its file, and its first picture, twice."""

    def __init__(self, root):
        self.ann_file = root / 'annotations' / 'instances_train.json'
        self.content = json.loads(self.ann_file.read_text())
        self.image = self.content['images'][0]
        self.picture = root / 'train' / self.image['file_name']
        self.objects = self.content['annotations']
        self.mine = [a for a in self.objects
                     if a['image_id'] == self.image['id']]

    def write(self):
        self.ann_file.write_text(json.dumps(self.content))

    def paint(self, array, kind='.png'):
        ok, code = cv2.imencode(kind, array)
        assert ok
        self.picture.write_bytes(code.tobytes())

    def boxes(self, *box):
        for a in self.mine:
            a['bbox'] = list(box)

    def crowds(self):
        for a in self.objects:
            a['iscrowd'] = 1

    def copies(self, number):
        self.objects += [dict(self.mine[0], id=10**6 + i)
                         for i in range(number)]


HEIGHT, WIDTH = 192, 256
NAN = float('nan')
#: What is done to the data, and what is said of it; None: nothing.
FAULTS = {
    'the file is cut off': (
        lambda d: d.ann_file.write_text(json.dumps(d.content)[:999]),
        'instances_train.json is not valid JSON'),
    'the file is a list': (
        lambda d: d.ann_file.write_text('[]'), "has no list 'images'"),
    'the file is no text': (
        lambda d: d.ann_file.write_bytes(b'\xff\xfe\x00'),
        'instances_train.json is not valid JSON'),
    'no categories': (
        lambda d: d.content.pop('categories'), "has no list 'categories'"),
    'a picture without a height': (
        lambda d: d.image.pop('height'), r'images\[0\] .* no sound .height'),
    'a missing picture': (
        lambda d: d.picture.unlink(), '000.*jpg'),
    'an empty picture': (
        lambda d: d.picture.write_bytes(b''), '000.*jpg'),
    'a picture that is a text': (
        lambda d: d.picture.write_text('no picture'), '000.*jpg'),
    'half a picture': (
        lambda d: d.picture.write_bytes(d.picture.read_bytes()[:1500]),
        '000.*jpg'),
    'a grey picture': (
        lambda d: d.paint(np.full((HEIGHT, WIDTH), 99, np.uint8)), None),
    'a transparent picture': (
        lambda d: d.paint(np.full((HEIGHT, WIDTH, 4), 99, np.uint8)), None),
    'a picture of 16 bits': (
        lambda d: d.paint(np.full((HEIGHT, WIDTH, 3), 9999, np.uint16)), None),
    'a picture of another size': (
        lambda d: d.paint(np.full((33, 500, 3), 9, np.uint8)),
        '000000.jpg is 500 x 33 pixels .* says 256 x 192'),
    'a box with a NaN': (
        lambda d: d.boxes(NAN, 1, 2, 3), "annotations.* no sound 'bbox'"),
    'a box of three numbers': (
        lambda d: d.boxes(1, 2, 3), "annotations.* no sound 'bbox'"),
    'boxes of negative width': (lambda d: d.boxes(9, 9, -5, 9), None),
    'boxes without an area': (lambda d: d.boxes(9, 9, 0, 0), None),
    'boxes outside of the picture': (lambda d: d.boxes(999, 9, 9, 9), None),
    'boxes larger than the picture': (
        lambda d: d.boxes(-99, -99, 999, 999), None),
    'an object of no picture': (
        lambda d: d.objects[0].update(image_id=10**7), 'image_id 10000000'),
    'an object of no class': (
        lambda d: d.objects[0].update(category_id=99), 'category_id 99'),
    'an id twice': (
        lambda d: d.objects[0].update(id=d.objects[1]['id']), 'twice'),
    'only crowds': (
        lambda d: d.crowds(), 'instances_train.json has no object'),
    'a thousand objects in a picture': (lambda d: d.copies(1000), None),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_it_is_named_or_trained_through(shapes, tmp_path, fault):
    root = tmp_path / 'data'
    shutil.copytree(shapes, root)
    data = Data(root)
    spoil, message = FAULTS[fault]
    before = data.ann_file.read_bytes()
    spoil(data)
    if data.ann_file.read_bytes() == before:
        data.write()
    output = tool('tools/train.py', MOE, '--work-dir', tmp_path / 'work',
                  *on(root, *TINY), ok=message is None)
    if message is None:
        loss, = re.findall(r'Epoch\(train\) \[1]\[4/4].* loss: ([0-9.]+)',
                           output)
        assert 0 < float(loss) < 100
    else:
        assert re.search(message, output.splitlines()[-1]), output[-2000:]
