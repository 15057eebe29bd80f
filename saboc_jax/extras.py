"""What `pip install saboc_jax` leaves out, and the one sentence that says how to get it."""

from collections.abc import Iterator
from contextlib import contextmanager

OWN = "saboc_jax"
WITHOUT_TENSORFLOW = {
    "reference": "pip install frozendict && pip install --no-deps neural-tangents==0.6.5"
}
"""How to install an extra whose metadata asks for TensorFlow, which nothing here needs."""


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message names the extra and what to type.

    Attributes:
        line: what to type.
    """

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        self.line = install_line(extra)
        super().__init__(
            f"{purpose} needs {package}, which the extra `{extra}` brings: {self.line}"
        )


def install_line(extra: str) -> str:
    """What to type to get an extra of this package."""
    return WITHOUT_TENSORFLOW.get(extra, f"pip install '{OWN}[{extra}]'")


@contextmanager
def needed(extra: str, purpose: str) -> Iterator[None]:
    """For the imports in its body: what they lack is said by the extra that brings it.

    Args:
        extra: a key of `optional-dependencies` in pyproject.toml.
        purpose: what needs it, as the beginning of a sentence, e.g. "A Parquet file".

    Raises:
        MissingExtraError: one of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", OWN):  # a mistake of ours must not look like something to install
            raise
        raise MissingExtraError(purpose, package, extra) from error
