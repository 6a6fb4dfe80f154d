"""Parts of a report that may fail without the others."""
import warnings
from typing import Any, Callable, List


class Attempts:
    """Calls functions, and keeps what has failed.

    The numbers of a report are on the disk before its figures and its page
    are made. A figure that cannot be made costs that figure alone.

    Attributes:
        failed: A sentence for each call that has failed.

    Example:
        >>> attempt = Attempts()
        >>> attempt('the figure', draw, 3, default=[])
    """

    def __init__(self) -> None:
        self.failed: List[str] = []

    def __call__(self, what: str, function: Callable, *args,
                 default: Any = None, **kwargs) -> Any:
        """The value of a function.

        Args:
            what: What it makes, for the sentence.
            function, args, kwargs: What is called.
            default: The value if it fails.
        """
        try:
            return function(*args, **kwargs)
        except Exception as error:  # a reader still wants all else
            why = (str(error).splitlines() or [''])[0]
            said = f'{what} could not be made: {type(error).__name__}: {why}'
            if said not in self.failed:
                warnings.warn(said)
                self.failed.append(said)
            return default
