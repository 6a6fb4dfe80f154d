from typing import Sequence, Tuple

import cv2
import numpy as np

#: Colours (R, G, B) of expert 0, 1, ...: the palette of Okabe and Ito (2008),
#: which can be told apart with any colour vision; it repeats after eight.
EXPERT_COLOURS: Tuple[Tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167),
    (213, 94, 0), (0, 114, 178), (240, 228, 66), (120, 120, 120))


def draw_boxes_by_expert(picture: np.ndarray,
                         instances,
                         layer: str,
                         classes: Sequence[str],
                         score_thr: float = 0.3) -> np.ndarray:
    """Detections with the colour and number of their leading expert.

    The expert with the highest weight leads. Small pictures are doubled, so
    that the labels can be read.

    Args:
        picture: (H, W, 3) uint8, RGB.
        instances: ``pred_instances`` in the picture's coordinates, with
            ``bboxes``, ``scores``, ``labels``, ``{layer}_expert_weights``.
        layer: ``'cls'`` or ``'reg'``.
        classes: Class names.
        score_thr: Detections below this score are left out.

    Returns:
        A new picture, RGB.
    """
    zoom = 2 if min(picture.shape[:2]) < 400 else 1
    canvas = cv2.resize(
        picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    shown = instances[instances.scores >= score_thr].cpu()
    leaders = shown[f'{layer}_expert_weights'].argmax(dim=1).tolist()
    boxes = (shown.bboxes * zoom).round().int().tolist()
    for box, label, score, expert in zip(boxes, shown.labels.tolist(),
                                         shown.scores.tolist(), leaders):
        colour = EXPERT_COLOURS[expert % len(EXPERT_COLOURS)]
        x1, y1, x2, y2 = box
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
        _label(canvas, f'{expert}: {classes[label]} {score:.2f}', (x1, y1),
               colour)
    return canvas


def _label(canvas: np.ndarray, text: str, corner: Tuple[int, int],
           colour: Tuple[int, int, int]) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, height), base = cv2.getTextSize(text, font, scale, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = max(corner[1], height + base)
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), colour, -1)
    cv2.putText(canvas, text, (x, y - base + 1), font, scale, (0, 0, 0), 1,
                cv2.LINE_AA)
