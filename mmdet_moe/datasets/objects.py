"""Which annotations of a COCO file CocoDataset takes for objects."""
from collections import Counter
from typing import Collection, NamedTuple, Optional


def left_out(annotation: dict, image: dict) -> Optional[str]:
    """Why CocoDataset leaves an annotation out; None if it does not. Crowds
    stay, as crowds."""
    x, y, w, h = annotation['bbox']
    if annotation.get('ignore'):
        return 'with ignore=1'
    if annotation['area'] <= 0:
        return 'with no area'
    if w < 1 or h < 1:
        return 'with a width or height below 1'
    if (min(x + w, image['width']) <= max(x, 0)
            or min(y + h, image['height']) <= max(y, 0)):
        return 'outside of the image'
    return None


def is_object(annotation: dict, image: dict) -> bool:
    """Whether an annotation is an object of the training and the tables."""
    return not annotation.get('iscrowd') and left_out(annotation,
                                                      image) is None


class Objects(NamedTuple):
    """The objects of a COCO file.

    Attributes:
        trained: How many a training learns from.
        left_out: How many CocoDataset leaves out, and COCOeval does not: a
            sentence, empty if there are none.
    """
    trained: int
    left_out: str


def count_objects(content: dict, categories: Collection,
                  min_size: float = 0) -> Objects:
    """Count the objects of a COCO file.

    Args:
        content: Of the file.
        categories: The ids of the categories that count.
        min_size: A training leaves out images with a smaller side.
    """
    images = {image['id']: image for image in content['images']}
    trained, reasons = 0, Counter()
    for annotation in content.get('annotations', ()):
        if annotation['category_id'] in categories and not annotation.get(
                'iscrowd'):
            image = images[annotation['image_id']]
            why = left_out(annotation, image)
            reasons[why] += 1
            trained += why is None and min(
                image['width'], image['height']) >= min_size
    total, kept = sum(reasons.values()), reasons.pop(None, 0)
    if not reasons:
        return Objects(trained, '')
    return Objects(
        trained,
        f'{total - kept} of {total} objects are left out of training and '
        'tables, and AP counts them, as missed unless they are detected: ' +
        ', '.join(f'{n} {why}' for why, n in reasons.items()) + '.')
