from typing import Tuple

#: Colours (R, G, B) of expert 0, 1, ...: the palette of Okabe and Ito (2008),
#: which can be told apart with any colour vision; it repeats after eight.
EXPERT_COLOURS: Tuple[Tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167),
    (213, 94, 0), (0, 114, 178), (240, 228, 66), (120, 120, 120))
