"""Cuts frames that are too large for a message of the broker. Pure.

Frames are cut by the bytes of their rows; how small these get when they are compressed is known only then. Most brokers take a frame
as it is, so it is cut only where it must be.
"""

from __future__ import annotations

import msgspec

from shared.errors import Permanent
from shared.syncs.frames import ARROW, RowBlock, RowFrame, encode_rows, pack_columns, pack_lines


def cut(frame: RowFrame, most: int) -> list[RowFrame]:
    """Returns frames with the rows of a frame in their order, the last with its end.

    Args:
        most: bytes of a message.

    Raises:
        Permanent: a row alone is larger; says of which stream.
    """
    size = len(encode_rows(frame))
    if size <= most:
        return [frame]
    first, second = _halves(frame, size, most)
    return cut(first, most) + cut(second, most)


def _halves(frame: RowFrame, size: int, most: int) -> tuple[RowFrame, RowFrame]:
    blocks = frame.blocks
    if len(blocks) == 1:
        blocks = _half_blocks(frame, blocks[0], size, most)
    elif not blocks:
        raise Permanent(f"the states of a batch are {size} bytes, the broker's max_payload is {most}; set it higher")
    middle = len(blocks) // 2
    replace = msgspec.structs.replace
    return replace(frame, blocks=blocks[:middle], end=None), replace(frame, blocks=blocks[middle:])


def _half_blocks(frame: RowFrame, block: RowBlock, size: int, most: int) -> tuple[RowBlock, RowBlock]:
    middle = block.rows // 2
    if not middle:
        raise Permanent(
            f"stream {frame.streams[block.stream].name}: a row is {size} bytes when it is compressed, and the broker's max_payload is "
            f"{most}; set it higher, or leave large columns out"
        )
    if block.form == ARROW:
        rows = block.columns()
        return pack_columns(block.stream, rows.slice(0, middle)), pack_columns(block.stream, rows.slice(middle))
    lines = block.lines()
    return pack_lines(block.stream, lines[:middle]), pack_lines(block.stream, lines[middle:])
