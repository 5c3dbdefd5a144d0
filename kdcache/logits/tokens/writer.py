"""Write a token cache row by row, from distributions that were computed elsewhere."""

from __future__ import annotations

from kdcache.logits.filling import Buffer, RowWriter
from kdcache.logits.tokens.format import TokenHeader, TokenManifest
from kdcache.logits.tokens.rows import TokenRows


class TokenWriter(RowWriter[TokenManifest, TokenRows]):
    """Writes one token cache. It is a context manager, see `LogitWriter`."""

    def _buffer(self) -> Buffer[TokenRows]:
        assert isinstance(self._header, TokenHeader)
        return _TokenBuffer(self._header)

    def write(self, split: str, rows: TokenRows) -> None:
        """Append rows to a split. Full shards go to disk at once.

        Raises:
            CacheError: the split's name cannot be used, an id was written before, or writing fails.
        """
        self._require_open()
        self._require_split_name(split)
        self._add(split, rows)


class _TokenBuffer(Buffer[TokenRows]):
    """A shard's rows, in the pieces in which they were given."""

    def __init__(self, header: TokenHeader) -> None:
        super().__init__(header.rows_per_shard)
        self._header = header
        self._pieces: list[TokenRows] = []

    def put(self, rows: TokenRows) -> None:
        self._pieces.append(TokenRows.joined([rows]))  # a copy

    def rows(self) -> TokenRows:
        pieces, self._pieces = self._pieces, []
        return TokenRows.joined([self._header.empty(), *pieces])
