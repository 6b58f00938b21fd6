from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from typing_extensions import override

from agent_persistence.errors import InvalidInputError
from agent_persistence.validation import check_datetime, check_limit, check_name, check_text

CANARY = "canary-4711"


@pytest.mark.parametrize("text", ["", "plain", "line\r\nline\ttab", "\x1b[31mred\x1b[0m", "\x01\x7f\x85", "naïve 😀"])
def test_text_with_control_characters_and_any_script_is_kept(text: str) -> None:
    assert check_text(text, "content") == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "not NoneType"),
        (b"bytes", "not bytes"),
        (7, "not int"),
        (f"{CANARY}\0", "NUL"),
        (f"{CANARY}\ud800", "lone surrogate"),
        (f"é{CANARY}\udfff", "lone surrogate"),
        (CANARY * 10, "longer than 50 characters"),
    ],
)
def test_text_that_cannot_be_stored_is_refused_without_showing_it(value: object, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_text(value, "content", max_length=50)

    assert caught.value.field == "content"
    assert reason in caught.value.reason
    assert CANARY not in str(caught.value)


def test_a_length_is_counted_in_characters() -> None:
    assert check_text("😀" * 50, "content", max_length=50) == "😀" * 50


def test_a_name_may_be_missing_or_have_255_characters() -> None:
    assert check_name(None, "name") is None
    assert check_name("é" * 255, "name") == "é" * 255


@pytest.mark.parametrize("value", ["x" * 256, "a\0b", 5])
def test_a_name_that_does_not_fit_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"^name: "):
        check_name(value, "name")


def test_an_aware_time_is_kept_in_its_own_zone() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-5)))

    assert check_datetime(time, "created_at") is time


class NoOffset(tzinfo):
    @override
    def utcoffset(self, dt: datetime | None) -> None:
        return None

    tzname = dst = utcoffset


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime(2026, 1, 2), "time zone"),  # noqa: DTZ001 - the naive time is the subject
        (datetime(2026, 1, 2, tzinfo=NoOffset()), "time zone"),
        (datetime(2026, 1, 2, tzinfo=UTC).date(), "not date"),
        ("2026-01-02T00:00:00Z", "not str"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))), "years"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "years"),
    ],
)
def test_a_time_that_the_database_would_misread_is_refused(value: object, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^created_at: ") as caught:
        check_datetime(value, "created_at")

    assert reason in caught.value.reason


@pytest.mark.parametrize("limit", [1, 50, 200])
def test_a_limit_within_its_range_is_kept(limit: int) -> None:
    assert check_limit(limit, "limit", 200) == limit


@pytest.mark.parametrize("value", [0, -1, 201, True, 1.0, "1", None])
def test_a_limit_out_of_range_or_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^limit: "):
        check_limit(value, "limit", 200)
