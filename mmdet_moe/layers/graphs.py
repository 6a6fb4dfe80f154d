"""Graphs: what is computed once, and recorded to be run for other inputs."""
import torch


def recorded_as_a_graph() -> bool:
    """Whether what is computed now is recorded, to be run for other inputs:
    by a tracer or an exporter, such as that to ONNX.

    What a sparse dispatch does depends on the decisions, and a record of it
    would repeat those of one input for all others.
    """
    return torch.jit.is_tracing() or torch.compiler.is_exporting()
