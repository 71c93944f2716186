"""A file of preference data as labels, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from preceptor.feedback.formats import hh, labels, rankings, trl, ultrafeedback
from preceptor.feedback.formats.labels import Label, Reading
from preceptor.feedback.formats.rows import BadRow, Row, RowError, read_rows

READERS: dict[str, Callable[[Row, Reading], Label]] = {
    "rankings": rankings.read,
    "hh": hh.read,
    "trl-preference": trl.read,
    "ultrafeedback": ultrafeedback.read,
}


def read_labels(path: Path, format_name: str, reading: Reading) -> Iterator[Label | BadRow]:
    """Yields what every row says, or why it says nothing, in file order; memory does not grow with the texts.

    Raises:
        InvalidInput: there is no such file.
    """
    read = READERS[format_name]
    for row in read_rows(path):
        yield row if isinstance(row, BadRow) else _label(read, row, reading)


def _label(read: Callable[[Row, Reading], Label], row: Row, reading: Reading) -> Label | BadRow:
    try:
        label = read(row, reading)
        labels.check(label, reading)
    except RowError as error:
        return BadRow(row.line, str(error), row.offset)
    return label
