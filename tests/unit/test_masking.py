"""Masking: exactly the parts that hold the values of a path give way."""

from __future__ import annotations

import json

import pytest

from towpath.eventlog.masking import MASK_JSON, cuts, with_mask

CONTEXT = (
    '{ "mail" : "j\\u0061ne\\n@x.y",\t"n": 12345678901234567890, "f": 1.10e+2,'
    ' "o": {"mail": [1, {"x": null}], "z": {}},\n "list": [{"mail": "a", "b": 1}, {"mail": "b"}, 3], "t": true,'
    ' "é\\"": "q", "empty": [], "none": null}'
)


def masked(context: str, *paths: str) -> str:
    return with_mask(context, cuts(context, [tuple(path.split(".")) for path in paths]), MASK_JSON)


def test_every_other_byte_stays() -> None:
    assert masked(CONTEXT, "mail") == CONTEXT.replace('"j\\u0061ne\\n@x.y"', MASK_JSON)
    assert masked(CONTEXT, "n", "t") == CONTEXT.replace("12345678901234567890", MASK_JSON).replace("true", MASK_JSON)


def test_objects_and_arrays_give_way_as_a_whole() -> None:
    assert masked(CONTEXT, "o") == CONTEXT.replace('{"mail": [1, {"x": null}], "z": {}}', MASK_JSON)
    assert masked(CONTEXT, "o.mail") == CONTEXT.replace('[1, {"x": null}]', MASK_JSON)
    assert masked(CONTEXT, "o", "o.mail") == masked(CONTEXT, "o")


def test_a_path_leads_through_arrays_to_each_element() -> None:
    assert json.loads(masked(CONTEXT, "list.mail"))["list"] == [{"mail": "***", "b": 1}, {"mail": "***"}, 3]


@pytest.mark.parametrize("path", ["mai", "mail.x", "n.n", "o.mail.y", "list.0", "empty.x", "none.x", "x"])
def test_an_absent_path_leaves_all_as_it_is(path: str) -> None:
    assert masked(CONTEXT, path) == CONTEXT


def test_a_key_is_found_however_it_is_written() -> None:
    assert masked(CONTEXT, 'é"') == CONTEXT.replace('"q"', MASK_JSON)
    assert masked('{"m\\u0061il": 1}', "mail") == '{"m\\u0061il": "***"}'


def test_a_key_that_comes_twice_hides_nothing() -> None:
    assert masked('{"mail": "a", "x": 1, "mail": "b"}', "mail") == '{"mail": "***", "x": 1, "mail": "***"}'


def test_what_is_masked_is_not_masked_again() -> None:
    once = masked(CONTEXT, "mail", "o")
    assert cuts(once, [("mail",), ("o",)]) == []


@pytest.mark.parametrize(
    "context", ["", "{", '{"a" 1}', '{"a": 1,}', '{"a": 1} x', "[1", '{"a": tru}', "{a: 1}", '{"a": "b', "[" * 100_000]
)
def test_what_is_not_json_is_refused_without_being_quoted(context: str) -> None:
    with pytest.raises(ValueError, match=r"^the context is not JSON$") as caught:
        cuts(context, [("a", "b")])
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("context", ["1", '"a"', "null", "[]", "{}", "  {}\n"])
def test_any_json_is_taken(context: str) -> None:
    assert cuts(context, [("a",)]) == []
