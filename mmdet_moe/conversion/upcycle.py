"""A checkpoint of a MoE detector out of one of the dense detector."""
import os
from typing import Optional

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdet_moe.layers import add_noise
from mmdet_moe.layers.checks import check_number

from .building import build_here
from .checkpoints import UpcyclingError, load_dense, read_state, write_state
from .compare import compare
from .dense_twin import dense_twin


def upcycle_detector(cfg: Config,
                     checkpoint: str,
                     out: str,
                     noise: float = 0.01,
                     picture: Optional[str] = None) -> str:
    """Write a checkpoint for a MoE config, made of a dense one.

    Args:
        cfg: Config of the MoE detector.
        checkpoint, out, noise, picture: As of :func:`write_upcycled`.

    Returns:
        What was copied and compared, to be printed.

    Raises:
        UpcyclingError: As :func:`write_upcycled` does.
    """
    check_absent(out)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    twin = dense_twin(cfg.model)  # before building: that may change a config
    return write_upcycled(
        build_here(cfg.model),
        build_here(twin),
        checkpoint,
        out,
        noise=noise,
        picture=picture)


def write_upcycled(moe: nn.Module,
                   dense: nn.Module,
                   checkpoint: str,
                   out: str,
                   *,
                   noise: float = 0.01,
                   picture: Optional[str] = None) -> str:
    """Write a checkpoint for a MoE detector, made of a dense one.

    Before the noise is added the losses, the raw outputs and the detections
    of both detectors are compared on a picture. What only the MoE detector
    has keeps the initialisation of its constructor.

    Args:
        moe: A detector with experts; its weights are changed.
        dense: The same detector without; its weights are changed.
        checkpoint: Of the dense detector.
        out: File to write; it must not exist yet.
        noise: As of :class:`UpcycleInit`.
        picture: A picture file to compare on; a generated one if None.

    Returns:
        What was copied and compared, to be printed.

    Raises:
        UpcyclingError: A key does not match, the two detectors differ, or
            ``out`` exists.
    """
    check_number('noise', noise)
    check_absent(out)
    state, meta = read_state(checkpoint)
    report = load_dense(moe, state, checkpoint)
    dense.load_state_dict(state)
    compared = compare(dense, moe, picture)
    add_noise(moe, noise)
    write_state(out, moe.state_dict(), meta, upcycled_from=str(checkpoint),
                noise=noise)
    return f'{report}\n{compared}\nnoise {noise:g} added; {out} written'


def check_absent(path: str) -> None:
    """Refuse to write over a file.

    Raises:
        UpcyclingError: There is one.
    """
    if os.path.exists(path):
        raise UpcyclingError(f'{path} is there already; choose another name')
