"""Whether a computation is recorded, to be repeated for other inputs."""
import torch


# torch.compile takes is_exporting() for True unless it is asked outside.
@torch.compiler.assume_constant_result
def recorded_as_a_graph() -> bool:
    """Whether a tracer or an exporter, such as that to ONNX, records what is
    computed now.

    The operations of a sparse dispatch depend on the decisions. A record of
    them would repeat the decisions about one input for all other inputs.
    """
    return torch.jit.is_tracing() or _is_exporting()


# PyTorch before 2.7 cannot say: there torch.export fails at a sparse dispatch.
_is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)
