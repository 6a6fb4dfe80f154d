"""Temporarily observe the calls of a method."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator


def harmless(see: Callable, failed: Callable[[Exception], None]) -> Callable:
    """The same function, but what fails in it is not raised.

    Args:
        see: What it returns is not used.
        failed: Called with what it raises.
    """

    def call(*args, **kwargs) -> None:
        try:
            see(*args, **kwargs)
        except Exception as error:
            failed(error)

    return call


@contextmanager
def observed(owner: Any, name: str, see: Callable,
             failed: Callable[[Exception], None]) -> Iterator[None]:
    """Look at each result of a method of one instance, or of a function of a
    module; on exit the owner is as it was.

    The method does what it does without: what fails in ``see`` is not raised.

    Args:
        owner: The instance. Its class is not touched.
        name: Name of the method.
        see: Called as ``see(method, result, *args, **kwargs)`` after each
            call; what it returns is not used.
        failed: Called with what ``see`` raises.
    """
    method, see = getattr(owner, name), harmless(see, failed)
    own = vars(owner).get(name)  # set on the instance by somebody else

    def call(*args, **kwargs):
        result = method(*args, **kwargs)
        see(method, result, *args, **kwargs)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
