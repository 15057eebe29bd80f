"""Optional dependencies, and the message that says how to install a missing one."""

from collections.abc import Iterator
from contextlib import contextmanager

OWN = "saboc_jax"
WITHOUT_TENSORFLOW = {
    "reference": "pip install frozendict && pip install --no-deps neural-tangents==0.6.5"
}
"""Install commands of extras whose metadata requires TensorFlow, which nothing here needs."""


class MissingExtraError(ImportError):
    """A package of an extra is missing; the message names the extra and the install command.

    Attributes:
        line: the install command.
    """

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        self.line = install_line(extra)
        super().__init__(
            f"{purpose} needs {package}, which the extra `{extra}` brings: {self.line}"
        )


def install_line(extra: str) -> str:
    """Returns the command that installs an extra of this package."""
    return WITHOUT_TENSORFLOW.get(extra, f"pip install '{OWN}[{extra}]'")


@contextmanager
def needed(extra: str, purpose: str) -> Iterator[None]:
    """Turns a failed import in its body into a `MissingExtraError`.

    Args:
        extra: a key of `optional-dependencies` in pyproject.toml.
        purpose: the feature that needs it, as the start of a sentence, e.g. "A Parquet file".

    Raises:
        MissingExtraError: if one of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", OWN):  # our own bug must not look like a missing package
            raise
        raise MissingExtraError(purpose, package, extra) from error
