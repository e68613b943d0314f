"""A person in the objects of a store: rows with values of any length are searched."""

from __future__ import annotations

from io import BytesIO

from loader.objects.people import Search, count, without


def test_a_long_value_does_not_keep_a_csv_object_from_being_searched() -> None:
    long = b"x" * 200_000  # more than Python's reader of CSV takes by itself
    data = b"user_id,text\nu1," + long + b"\nu2,short\n"
    search = Search("tracks", ["u1"])
    assert count(BytesIO(data), ("csv", "none"), search) == (1, 2)
    rest = BytesIO()
    without(BytesIO(data), rest, ("csv", "none"), search)
    assert rest.getvalue() == b"user_id,text\nu2,short\n"
