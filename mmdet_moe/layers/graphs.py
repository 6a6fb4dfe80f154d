"""Whether a computation is recorded, to be repeated for other inputs."""
import torch


def recorded_as_a_graph() -> bool:
    """Whether a tracer or an exporter, such as that to ONNX, records what is
    computed now.

    The operations of a sparse dispatch depend on the decisions. A record of
    them would repeat the decisions about one input for all other inputs.
    """
    return torch.jit.is_tracing() or _is_exporting()


if hasattr(torch.compiler, 'is_exporting'):
    _is_exporting = torch.compiler.is_exporting
    # torch.compile takes it for True unless it is asked outside.
    recorded_as_a_graph = torch.compiler.assume_constant_result(
        recorded_as_a_graph)
else:

    def _is_exporting() -> bool:
        """Unknown before PyTorch 2.7; torch.export fails at a sparse dispatch
        there, rather than recording one."""
        return False
