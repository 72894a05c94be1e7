"""Many messages at once: columns in, a verdict per row out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, overload

from chinwag._checks import items, show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VERDICTS", "Verdicts"]

VERDICTS: Final = ("accepted", "duplicate", "full", "busy", "evicted", "closed")
"""What can become of a row."""

_ACCEPTED = (0, 4)

OPTIONS: Final = (
    "id",
    "at",
    "real_time",
    "rank",
    "size",
    "batch_key",
    "quiet_s",
    "flush",
    "standalone",
    "bypass",
    "context",
    "ttl_s",
    "delay_s",
    "background",
    "on_busy",
)


class Verdicts(Sequence[str]):
    """What became of each row: a sequence of `accepted`, `duplicate`, `full`, `evicted`, ...

    `evicted` was accepted and dropped at once by a full group (`overflow="drop_newest"`); `closed`
    came after another thread had closed the queue.
    """

    __slots__ = ("_codes",)

    def __init__(self, codes: bytes) -> None:
        self._codes = codes

    @property
    def codes(self) -> NDArray[np.uint8]:
        """One number a row, its place in `chinwag.columns.VERDICTS`; shape (rows,)."""
        import numpy as np

        return np.frombuffer(self._codes, np.uint8)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Whether a row was accepted, those included that were evicted at once; shape (rows,)."""
        import numpy as np

        return np.isin(self.codes, _ACCEPTED)

    def counts(self) -> dict[str, int]:
        """How many rows met each verdict that there was."""
        counted = Counter(self._codes)
        return {word: counted[code] for code, word in enumerate(VERDICTS) if counted[code]}

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Verdicts: ...
    def __getitem__(self, index: int | slice) -> str | Verdicts:
        """The verdict on a row, or on some."""
        if isinstance(index, slice):
            return Verdicts(self._codes[index])
        return VERDICTS[self._codes[index]]

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[str]:
        return (VERDICTS[code] for code in self._codes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Verdicts):
            return self._codes == other._codes
        if isinstance(other, list | tuple):
            return list(self) == list(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._codes)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {word}" for word, count in self.counts().items())
        return f"<Verdicts on {len(self):,} rows: {counts or 'none'}>"


def column(name: str, values: object, rows: int | None) -> list[Any]:
    """Make a list of a column, which may be a numpy array or any iterable but a text.

    Args:
        name: What it is called.
        values: One value a row.
        rows: How many it must have, if that is known.

    Raises:
        TypeError: It is no column: a single value, a text, an array of more than one dimension.
        ValueError: It has another length.
    """
    listed = items(values)
    if listed is None:
        listed = _listed(name, values, rows)
    if rows is not None and len(listed) != rows:
        raise ValueError(
            f"{name}: has {len(listed):,} rows where the others have {rows:,}; columns must be of "
            "one length"
        )
    return listed


def _listed(name: str, values: Any, rows: int | None) -> list[Any]:
    try:
        dimensions = getattr(values, "ndim", 1)
        counted = getattr(getattr(values, "dtype", None), "kind", "O") in "mM"
        several = dimensions != 1
    except Exception as error:
        raise _no_column(name, values) from error
    if several:
        raise TypeError(
            f"{name}: must have one dimension, one value a row, not {show(dimensions)}; use "
            ".ravel() or a list"
        )
    if counted and type(values).__module__ != "numpy":
        raise _no_column(name, values)
    if counted and name == "at":
        values = _epoch_seconds(name, values)
    elif counted and name == "payloads":
        return list(values)  # as numbers nobody would know their unit
    elif counted:
        raise TypeError(
            f"{name}: must not be times or spans of numpy's, whose numbers are of any unit; divide "
            "them by np.timedelta64(1, 's')"
        )
    kind = type(values)  # a class may be made up
    if issubclass(kind, str | bytes | bytearray | Mapping) or not issubclass(kind, Iterable):
        raise _no_column(name, values)
    if callable(tolist := getattr(values, "tolist", None)):
        if (listed := items(tolist())) is None:
            raise _no_column(name, values)
        return listed
    if rows is None:
        return list(values)
    # One that never ends must not be read to its end.
    listed = list(islice(values, rows + 1))
    if len(listed) > rows:
        raise ValueError(
            f"{name}: has more rows than the others, which have {rows:,}; columns must be of one "
            "length"
        )
    return listed


def _no_column(name: str, values: object) -> TypeError:
    return TypeError(
        f"{name}={type(values).__name__}: must be a column with one value a row; give a list or a "
        "numpy array"
    )


def options(given: Mapping[str, object], rows: int) -> dict[str, list[Any]]:
    """Make lists of the optional columns; a single value is that of every row.

    Raises:
        TypeError: There is no such column.
        ValueError: One has another length.
    """
    columns: dict[str, list[Any]] = {}
    for name, values in given.items():
        if name not in OPTIONS:
            raise TypeError(f"{name}: no such column; there are {', '.join(OPTIONS)}")
        if values is None:
            continue
        if name != "id" and _is_single(values):
            columns[name] = [values] * rows
        else:
            columns[name] = column(name, values, rows)
    return columns


def _is_single(values: object) -> bool:
    kind = type(values)
    return issubclass(kind, str | bytes | bool | int | float) or not issubclass(kind, Iterable)


def _epoch_seconds(name: str, values: Any) -> Any:
    import numpy as np

    try:
        missing = np.isnat(values).any()
        seconds = values.astype("datetime64[us]").astype(np.int64) / 1e6
    except Exception as error:
        raise _no_column(name, values) from error
    if missing:
        raise ValueError(f"{name}: has a row that is no time (NaT); leave it out, or give another")
    return seconds
