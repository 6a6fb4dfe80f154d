"""Looking over a method's shoulder."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator


@contextmanager
def wrapped(owner: Any, name: str, around: Callable) -> Iterator[None]:
    """Replace a method of one instance; on exit the instance is as it was.

    Args:
        owner: The instance. Its class is not touched.
        name: Name of the method.
        around: Is called in place of the method, as
            ``around(method, *args, **kwargs)``, and returns its result.
    """
    method = getattr(owner, name)
    own = vars(owner).get(name)  # set on the instance by somebody else

    def call(*args, **kwargs):
        return around(method, *args, **kwargs)

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
