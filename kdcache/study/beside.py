"""Files that stages write beside params.yaml (settle.json, tuned.json); together they say which trials a study has."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from kdcache.errors import KdcacheError
from kdcache.system.files import read_json

Content = TypeVar("Content", bound=BaseModel)


def read_beside(path: Path, content: type[Content], command: str) -> Content:
    """The file's content; the defaults if there is no file.

    Args:
        command: the command that writes the file anew, for the message.

    Raises:
        KdcacheError: the file's content is not as the command writes it.
    """
    if not path.exists():
        return content()
    try:
        return content.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise KdcacheError(
            f"{path}: {place}: {first['msg']}; delete the file and run `{command}`, which writes it anew"
        ) from None
