"""The files that the package brings: schemas, OpenAPI documents, templates."""

import functools


@functools.cache
def read(path: str) -> bytes:
    """Return what a file of the package has. The package may be in a zip file.

    It is read once: an update may replace the file while the service runs.
    """
    content: bytes = __spec__.loader.get_data(path)  # type: ignore[union-attr]
    return content
