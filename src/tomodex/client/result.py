"""What comes back of a search: counts of all that fits, and rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tomodex.cohorts import Counts
from tomodex.errors import Misconfigured
from tomodex.instance import Kind
from tomodex.search import SEARCHABLE

if TYPE_CHECKING:
    import pandas
    import polars

#: A value of a row; None: not known. What SQL finds may also be a list or a struct.
Cell = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows on their way."""

    counts: Counts
    columns: tuple[str, ...]
    rows: Iterable[Sequence[Cell]]  #: each with a value for each column


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Rows that were found."""

    columns: tuple[str, ...]
    rows: tuple[Sequence[Cell], ...]  #: each with a value for each column
    counts: Counts | None = None  #: of all that fits, whatever is shown of it; None: of SQL
    truncated: bool = False  #: of SQL: there are more rows than these

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Cell]]:
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame: dates are dates, numbers float64, NaN where nothing is known.

        Raises:
            Misconfigured: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as missing:
            raise _missing("pandas", "client") from missing
        frame = pandas.DataFrame([list(row) for row in self.rows], columns=list(self.columns))
        if self.counts is None:
            return frame
        for column in self.columns:
            if _kind(column) == "date":
                frame[column] = pandas.to_datetime(frame[column], errors="coerce")
            elif _kind(column) == "number":
                frame[column] = frame[column].astype("float64")
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The same for polars, where nothing is known null.

        Raises:
            Misconfigured: polars is not installed.
        """
        try:
            import polars
        except ImportError as missing:
            raise _missing("polars", "polars") from missing
        rows = [list(row) for row in self.rows]
        if self.counts is None:
            return polars.DataFrame(
                rows, schema=list(self.columns), orient="row", infer_schema_length=None
            )
        types = {"date": polars.String, "text": polars.String, "number": polars.Float64}
        schema = {column: types[_kind(column)] for column in self.columns}
        frame = polars.DataFrame(rows, schema=schema, orient="row", strict=False)
        dates = [column for column in self.columns if _kind(column) == "date"]
        return frame.with_columns(polars.col(dates).str.to_date("%Y-%m-%d", strict=False))


def _kind(column: str) -> Kind:
    return SEARCHABLE.get(column, "text")


def _missing(package: str, extra: str) -> Misconfigured:
    return Misconfigured(f"{package} is not installed; pip install 'tomodex[{extra}]'")
