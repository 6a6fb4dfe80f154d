"""Which annotations of a COCO file CocoDataset takes for objects."""
from collections import Counter
from typing import Collection, Optional


def left_out(annotation: dict, image: dict) -> Optional[str]:
    """Why CocoDataset leaves an annotation out; None if it does not. Crowds
    stay, as crowds."""
    x, y, w, h = annotation['bbox']
    if annotation.get('ignore'):
        return 'ignore=1'
    if annotation['area'] <= 0:
        return 'no area'
    if w < 1 or h < 1:
        return 'a width or height below 1'
    if (min(x + w, image['width']) <= max(x, 0)
            or min(y + h, image['height']) <= max(y, 0)):
        return 'outside of the image'
    return None


def is_object(annotation: dict, image: dict) -> bool:
    """Whether an annotation is an object of the training and the tables."""
    return not annotation.get('iscrowd') and left_out(annotation,
                                                      image) is None


def describe_left_out(content: dict, categories: Collection) -> str:
    """How many objects CocoDataset leaves out, and COCOeval does not: a
    sentence, empty if there are none.

    Args:
        content: Of a COCO file.
        categories: The ids of the categories that count.
    """
    images = {image['id']: image for image in content['images']}
    mine = [a for a in content['annotations']
            if a['category_id'] in categories and not a.get('iscrowd')]
    reasons = Counter(left_out(a, images[a['image_id']]) for a in mine)
    kept = reasons.pop(None, 0)
    if not reasons:
        return ''
    of_each = ', '.join(f'{n} with {why}' if why != 'outside of the image'
                        else f'{n} {why}' for why, n in reasons.items())
    return (f'{len(mine) - kept} of {len(mine)} objects are left out of '
            f'training and tables, and AP counts them as missed: {of_each}.')
