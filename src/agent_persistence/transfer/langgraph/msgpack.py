"""The outermost array of a msgpack value, cut into its items: bytes, which nobody has to understand."""

from __future__ import annotations

from typing import Final

from agent_persistence.frozen import frozen


@frozen
class _Format:
    """What follows the first byte of a value: a number, bytes, and values within it.

    Attributes:
        number_bytes: how many bytes the number takes.
        bytes_each: how many bytes there are for each one of the number.
        values_each: how many values there are for each one of the number.
    """

    number_bytes: int = 0
    bytes_each: int = 0
    values_each: int = 0
    fixed_bytes: int = 0
    fixed_values: int = 0


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
    """Return the items of an array, or ``None`` for what is none.

    Raises:
        ValueError: this is no msgpack.
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
        raise ValueError("bytes are left behind the array")
    return items


def numbers_only(items: list[bytes]) -> bool:
    """Whether all items are numbers, booleans or nothing, and there are some."""
    return bool(items) and all(item[0] in _NUMBERS for item in items)


def _end_of(packed: bytes, start: int) -> int:
    """Where the value that starts here ends; without recursion, for values nest as deep as they like."""
    open_values = 1
    while open_values:
        inside, start = _inside(packed, start)
        open_values += inside - 1
    return start


def _inside(packed: bytes, start: int) -> tuple[int, int]:
    """How many values are within the one that starts here, and where they, or what is behind it, begin."""
    found = _FORMATS.get(packed[start]) if start < len(packed) else None
    if found is None:
        raise ValueError("this is no msgpack")
    start += 1 + found.number_bytes
    number = int.from_bytes(packed[start - found.number_bytes : start], "big")
    end = start + found.fixed_bytes + number * found.bytes_each
    if end > len(packed):
        raise ValueError("a value is cut off")
    return found.fixed_values + number * found.values_each, end
