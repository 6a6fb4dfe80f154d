"""Several COCO data sets as one of several domains."""
import json
from pathlib import Path
from typing import Mapping

from mmdet_moe.files import DataError


def mix_domains(files: Mapping[str, str], images: Mapping[str, str]) -> dict:
    """The content of one annotation file for all of them.

    Args:
        files: By the name of a domain, its annotation file.
        images: By the name of a domain, where its pictures are, as seen from
            the ``data_prefix`` of the mixture; put before their names.

    Returns:
        ``images``, each with the key ``domain``; ``annotations``;
        ``categories``, named ``{domain}:{class}``. All are numbered anew, from
        1, as COCOeval does not see that an object with the id 0 is found.

    Raises:
        DataError: A file is not there or not in COCO's format, or has no
            picture.
    """
    mixed = dict(images=[], annotations=[], categories=[])
    for domain, file in files.items():
        content = _read(file)
        number = {}
        for key in ('categories', 'images'):
            start = len(mixed[key]) + 1
            number[key] = {x['id']: start + i
                           for i, x in enumerate(content[key])}
        mixed['categories'] += [
            dict(c, id=number['categories'][c['id']],
                 name=f'{domain}:{c["name"]}') for c in content['categories']
        ]
        mixed['images'] += [
            dict(i, id=number['images'][i['id']], domain=domain,
                 file_name=str(Path(images[domain], i['file_name'])))
            for i in content['images']
        ]
        for a in content['annotations']:
            try:
                where = dict(image_id=number['images'][a['image_id']],
                             category_id=number['categories'][
                                 a['category_id']])
            except KeyError as error:
                raise DataError(
                    f'{file}: the annotation {a.get("id")} is of a picture or '
                    f'category that is not in the file: {error}') from None
            mixed['annotations'].append(
                dict(a, id=len(mixed['annotations']) + 1, **where))
    return mixed


def _read(file: str) -> dict:
    try:
        content = json.loads(Path(file).read_text(encoding='utf-8'))
        missing = [key for key in ('images', 'annotations', 'categories')
                   if not isinstance(content[key], list)]
    except OSError as error:
        raise DataError(f'{file} cannot be read: {error.strerror}') from None
    except (ValueError, KeyError, TypeError):
        missing = ['images, annotations or categories']
    if missing:
        raise DataError(f'{file} is not in COCO format: there is no list of '
                        f'{missing[0]}')
    if not content['images']:
        raise DataError(f'{file}: the domain has no picture')
    return content
