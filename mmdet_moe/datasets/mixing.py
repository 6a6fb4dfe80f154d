"""Several COCO data sets as one of several domains."""
import json
from pathlib import Path
from typing import Sequence, Tuple

from mmdet_moe.files import DataError


def mix_domains(domains: Sequence[Tuple[str, str, str]]) -> dict:
    """The content of one annotation file for all of them.

    Args:
        domains: For each its name, its annotation file, and where its pictures
            are, as seen from the ``data_prefix`` of the mixture.

    Returns:
        ``images``, each with the key ``domain``; ``annotations``;
        ``categories``, named ``{domain}:{class}``. All are numbered anew, from
        1, as COCOeval does not see that an object with the id 0 is found.

    Raises:
        DataError: A file is not there or not in COCO's format, or has no
            picture; or two domains have one name.
    """
    mixed = dict(images=[], annotations=[], categories=[])
    names = [name for name, _, _ in domains]
    for domain, file, pictures in domains:
        if names.count(domain) > 1:
            raise DataError(f'two domains have the name {domain}')
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
                 file_name=str(Path(pictures, i['file_name'])))
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
    if not missing:
        missing = [
            f'{key} with {needed!r} in each'
            for key, needed in (('images', 'file_name'), ('images', 'id'),
                                ('categories', 'name'), ('categories', 'id'))
            if any(needed not in x for x in content[key])
        ]
    if missing:
        raise DataError(f'{file} is not in COCO format: there is no list of '
                        f'{missing[0]}')
    if not content['images']:
        raise DataError(f'{file}: the domain has no picture')
    return content
