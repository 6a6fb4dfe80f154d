"""Images as a data set loads them, for a page."""
import numpy as np
from mmengine.dataset import BaseDataset


def loaded_image(dataset: BaseDataset, index: int) -> np.ndarray:
    """An image (height, width, RGB) as the pipeline loads it, before it is
    changed. Of images with other channels than three the first three are
    shown, and values of other types than uint8 are stretched to its range.

    Args:
        dataset: The data set.
        index: Which of its images.

    Raises:
        ValueError: The pipeline loads no image.
    """
    results = dataset.get_data_info(index)
    for step in dataset.pipeline.transforms:
        if results is None or 'img' in results:
            break
        results = step(results)
    if not results or 'img' not in results:
        raise ValueError('the pipeline of the data set loads no image')
    return _as_rgb(np.asarray(results['img']))


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """(height, width) or (height, width, channels), BGR first, of any type."""
    image = image[..., None] if image.ndim == 2 else image
    channels = image.shape[2]
    # Of two channels the second is shown twice.
    order = [min(c, channels - 1) for c in (2, 1, 0)]
    return np.ascontiguousarray(_as_uint8(image[..., order]))


def _as_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    image = np.nan_to_num(image.astype(np.float32))
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255 or high <= 1:  # other values than those of uint8
        image = (image - low) * (255 / ((high - low) or 1))
    return image.round().astype(np.uint8)
