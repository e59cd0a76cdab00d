"""Checks that every room uses."""

import numpy as np

from refusals import unrefused
from sgpo.errors import check_whole


def test_a_whole_number_is_an_integer_of_python_or_numpy_that_is_not_too_small():
    for value in (2, 3, np.int64(2), np.uint8(200)):
        check_whole("n", value, 2)
    check_whole("n", None, 2, optional=True)
    cases = [
        (value, rf"^n is {shown}; allowed: a whole number >= 2\.$")
        for value, shown in [
            (1, "1"), (-1, "-1"), (2.5, "2.5"), (3.0, "3.0"), (float("nan"), "nan"), (float("inf"), "inf"),
            ("8k", "'8k'"), ("3", "'3'"), (True, "True"), (None, "None"), ([3], r"\[3\]"), (np.float32(3), ".*3.*"),
            (np.bool_(True), ".*True.*"), (np.int64(1), ".*1.*"),
        ]
    ]  # fmt: skip
    assert unrefused(lambda value: check_whole("n", value, 2), cases) == {}
    optional = [(value, "allowed: None or a whole number >= 2") for value in (1, True, 2.5, "8k")]
    assert unrefused(lambda value: check_whole("n", value, 2, optional=True), optional) == {}
