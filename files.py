"""Read the package's own files: schemas, OpenAPI documents, templates."""

import functools


@functools.cache
def read(path: str) -> bytes:
    """Return the content of a file of the package, which may be in a zip file.

    It is read only once, because an update may replace the file while the service runs.
    """
    content: bytes = __spec__.loader.get_data(path)  # type: ignore[union-attr]
    return content
