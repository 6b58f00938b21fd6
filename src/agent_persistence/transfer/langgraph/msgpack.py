"""Splits a msgpack array into its items without decoding them: extension types would need the application's classes."""

from __future__ import annotations

from typing import Final

from agent_persistence.frozen import frozen


@frozen
class _Format:
    """The layout of a value after its first byte: a length, then bytes or nested values.

    Attributes:
        number_bytes: the size of the length in bytes.
        bytes_each: bytes for each unit of the length.
        values_each: nested values for each unit of the length.
        fixed_bytes: bytes that do not depend on the length.
        fixed_values: nested values that do not depend on the length.
    """

    number_bytes: int = 0
    bytes_each: int = 0
    values_each: int = 0
    fixed_bytes: int = 0
    fixed_values: int = 0


# By first byte, from the msgpack specification, which never uses 0xC1.
_FORMATS: Final[dict[int, _Format]] = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3), _Format()),
    **{0x80 + count: _Format(fixed_values=2 * count) for count in range(16)},
    **{0x90 + count: _Format(fixed_values=count) for count in range(16)},
    **{0xA0 + size: _Format(fixed_bytes=size) for size in range(32)},
    **{0xC4 + power: _Format(2**power, bytes_each=1) for power in range(3)},
    **{0xC7 + power: _Format(2**power, bytes_each=1, fixed_bytes=1) for power in range(3)},
    **{0xCA + more: _Format(fixed_bytes=4 + 4 * more) for more in range(2)},
    **{0xCC + power: _Format(fixed_bytes=2**power) for power in range(4)},
    **{0xD0 + power: _Format(fixed_bytes=2**power) for power in range(4)},
    **{0xD4 + power: _Format(fixed_bytes=1 + 2**power) for power in range(5)},
    **{0xD9 + power: _Format(2**power, bytes_each=1) for power in range(3)},
    **{0xDC + more: _Format(2 + 2 * more, values_each=1) for more in range(2)},
    **{0xDE + more: _Format(2 + 2 * more, values_each=2) for more in range(2)},
}
_ARRAYS: Final = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})
_NUMBERS: Final = frozenset({*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3, *range(0xCA, 0xD4)})


def items_of(packed: bytes) -> list[bytes] | None:
    """Return the items of an array; ``None`` if the value is not an array.

    Raises:
        ValueError: the bytes are not one complete msgpack value.
    """
    if not packed or packed[0] not in _ARRAYS:
        return None
    count, start = _inside(packed, 0)
    items = []
    for _ in range(count):
        end = _end_of(packed, start)
        items.append(packed[start:end])
        start = end
    if start != len(packed):
        raise ValueError("bytes follow the array")
    return items


def numbers_only(items: list[bytes]) -> bool:
    """Return whether there are items, and all of them are numbers, booleans or nil."""
    return bool(items) and all(item[0] in _NUMBERS for item in items)


def _end_of(packed: bytes, start: int) -> int:
    """Return where the value that starts at an index ends."""
    # A count in place of recursion, which deeply nested values could exhaust.
    open_values = 1
    while open_values:
        inside, start = _inside(packed, start)
        open_values += inside - 1
    return start


def _inside(packed: bytes, start: int) -> tuple[int, int]:
    """Return the number of values nested in the one that starts at an index, and the index at which they start."""
    found = _FORMATS.get(packed[start]) if start < len(packed) else None
    if found is None:
        raise ValueError("the value is not msgpack")
    start += 1 + found.number_bytes
    number = int.from_bytes(packed[start - found.number_bytes : start], "big")
    end = start + found.fixed_bytes + number * found.bytes_each
    if end > len(packed):
        raise ValueError("the value is incomplete")
    return found.fixed_values + number * found.values_each, end
