"""Values of single parameters: what is taken, what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xalora_client.errors import InvalidTaskError
from xalora_client.tasks import MAX_SEED
from xalora_client.workflows import Parameter

TARGET = {"node_id": 1, "subfield": "x"}


def parameter(**keys: object) -> Parameter:
    return Parameter.model_validate({"name": "size", "comfyui": TARGET, **keys})


WIDTH = {"type": "int", "default": 680, "minimum": 512, "maximum": 2048, "step": 64}


@pytest.mark.parametrize(
    ("keys", "given", "expected"),
    [
        (WIDTH, 512, 512),
        (WIDTH, 2048, 2048),
        (WIDTH, 576.0, 576),
        (WIDTH, np.int64(640), 640),
        (WIDTH, 680, 680),  # the definition's own default, off its own grid
        ({"type": "number", "step": 0.01, "minimum": 0, "maximum": 1}, 0.123456, 0.123456),
        ({"type": "number"}, 3, 3.0),
        ({"type": "number"}, np.float32(0.5), 0.5),
        ({"type": "float"}, 1, 1.0),
        ({"type": "integer"}, -5, -5),
        ({"type": "INT"}, 5, 5),
        ({"type": "Float"}, 1, 1.0),
        ({"type": "STRING"}, "a", "a"),
        ({"type": "bool"}, False, False),
        ({"type": "string"}, "", ""),
        ({"type": "string", "options": ["a", "b"]}, "b", "b"),
        ({"type": "int", "options": [1, 2]}, 2, 2),
        ({"type": "string", "installed": True, "options": ["a.pth"]}, "auto", "auto"),
    ],
)
def test_fitting_values_come_back_in_the_parameters_own_type(
    keys: dict[str, object], given: object, expected: object
) -> None:
    value = parameter(**keys).check(given)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("default", [64.0, 6.4e1, 64])
def test_a_whole_default_is_whole(default: float) -> None:
    assert type(parameter(type="int", default=default).default) is int


@pytest.mark.parametrize(
    ("keys", "given", "message"),
    [
        (WIDTH, 500, "size was given 500, but allowed is a whole number from 512 to 2048 in steps of 64"),
        (WIDTH, 700, "the nearest is 640 or 704"),
        (WIDTH, 2047, "the nearest is 1984 or 2048"),
        (WIDTH, 512.5, "given 512.5"),
        (WIDTH, True, "given True"),
        (WIDTH, "512", "given '512'"),
        ({"type": "number"}, float("nan"), "given nan"),
        ({"type": "number"}, float("inf"), "given inf"),
        ({"type": "number"}, True, "given True"),
        ({"type": "number", "maximum": 1.0}, 1.1, "a number of at most 1.0"),
        ({"type": "bool"}, 1, "true or false"),
        ({"type": "string"}, 1, "given 1, but allowed is a text"),
        ({"type": "string", "required": True}, "  ", "a text that is not empty"),
        ({"type": "string", "options": ["a", "b"]}, "c", "given 'c', but allowed is one of 'a', 'b'"),
        ({"type": "int", "options": [1, 2]}, 3, "one of 1, 2"),
        ({"type": "string"}, "auto" * 100, None),
        ({"type": "image"}, 5, "given 5, but allowed is an image"),
        ({"type": "image"}, " ", "an image"),
    ],
)
def test_a_refusal_names_the_parameter_what_was_given_and_what_is_allowed(
    keys: dict[str, object], given: object, message: str | None
) -> None:
    if message is None:
        assert parameter(**keys).check(given) == given
        return
    with pytest.raises(InvalidTaskError) as caught:
        parameter(**keys).check(given)
    assert "Parameter size" in str(caught.value)
    assert message in str(caught.value)
    assert "nothing was charged" in str(caught.value)


def test_images_pass_through_untouched(tmp_path: Path) -> None:
    image = parameter(type="image")
    for value in (tmp_path / "a.png", "https://host/a.png", b"\x89PNG", Image.new("RGB", (2, 2))):
        assert image.check(value) is value
    array = np.zeros((2, 2, 3), np.float32)
    assert image.check(array) is array


def test_a_refusal_never_prints_the_bytes_of_a_value() -> None:
    with pytest.raises(InvalidTaskError, match="a value of type bytes"):
        parameter(type="string").check(b"secret pixels")


def test_whole_numbers_beyond_what_json_carries_are_refused_whatever_the_file_allows() -> None:
    seed = parameter(name="noise_seed", type="int", minimum=0, maximum=2**64 - 1, default=2**60)
    assert seed.is_seed
    assert seed.user_maximum == MAX_SEED
    assert seed.check(MAX_SEED) == MAX_SEED
    assert seed.check(2**60) == 2**60, "the file's own default is taken as it is"
    with pytest.raises(InvalidTaskError, match=f"from 0 to {MAX_SEED}") as caught:
        seed.check(MAX_SEED + 1)
    assert str(2**64 - 1) in str(caught.value), "the message says why the file's maximum does not count"


def test_seeds_without_a_minimum_start_at_zero_and_other_numbers_below() -> None:
    with pytest.raises(InvalidTaskError):
        parameter(name="seed", type="int").check(-1)
    assert parameter(type="int").check(-1) == -1


@pytest.mark.parametrize(
    ("keys", "text", "expected"),
    [
        (WIDTH, "576", 576),
        ({"type": "number"}, "1e-1", 0.1),
        ({"type": "bool"}, "Yes", True),
        ({"type": "bool"}, "0", False),
        ({"type": "string"}, "0", "0"),
        ({"type": "image"}, "cat.png", "cat.png"),
    ],
)
def test_texts_of_a_command_line_are_read_by_type(
    keys: dict[str, object], text: str, expected: object
) -> None:
    value = parameter(**keys).parse(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("keys", "text"), [(WIDTH, "wide"), (WIDTH, "1.5"), ({"type": "bool"}, "perhaps")])
def test_texts_that_are_no_value_are_refused(keys: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidTaskError, match=f"given '{text}'"):
        parameter(**keys).parse(text)
