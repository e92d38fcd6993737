"""Labels as numbers: the kind of question is read off them, and what can't be asked is an error."""

import numpy as np
import pytest

from assay.schemas.errors import AssayError
from assay.taggers.target import describe, make_target


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1", "0"] * 10, "binary"),
        (["true", "false"] * 10, "binary"),
        (["1", "2.5", "4"] * 10, "regression"),
        (["a", "b", "c"] * 10, "multiclass"),
    ],
)
def test_the_kind_is_read_off_the_labels(labels: list[str], kind: str) -> None:
    target = make_target(labels)
    assert target.kind == kind
    assert "--kind says otherwise" in describe(target, inferred=True)


def test_one_label_against_the_others_is_binary() -> None:
    target = make_target(["a", "b", "c", "a"] * 10, positive="a")
    assert (target.kind, target.classes) == ("binary", ("a",))
    assert target.y_N.tolist() == [1, 0, 0, 1] * 10


def test_two_names_need_to_be_told_which_is_the_positive_one() -> None:
    with pytest.raises(AssayError, match="--positive names one of: spam, ham"):
        make_target(["spam", "ham"] * 10 + ["spam"])


def test_a_regression_is_scaled_by_the_documents_that_are_not_for_testing() -> None:
    labels = ["0", "1", "2", "3", "4"] * 10 + ["40"]
    known = np.array([True] * 50 + [False])
    target = make_target(labels, known=known)
    assert target.unit == (0, 4)
    assert target.y_N[:5].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert target.y_N[-1] == 1


def test_an_order_makes_names_a_scale() -> None:
    target = make_target(["low", "middle", "high"] * 10, order=("low", "middle", "high"))
    assert (target.kind, target.unit, target.classes) == ("regression", (0, 2), ("high",))
    assert target.y_N[:3].tolist() == [0, 0.5, 1]
    with pytest.raises(AssayError, match="'middle' isn't in the order"):
        make_target(["low", "middle", "high"] * 10, order=("low", "high"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["same"] * 50, "all 50 labels are 'same'"),
        ([], "no label at all"),
        (["a", "b", "c"] * 3, "too few documents of a label: a 3, b 3, c 3"),
        (["1", "0", "0"] * 5, "too few documents of a label: 1 5"),
    ],
)
def test_labels_that_can_not_be_told_apart_are_an_error(labels: list[str], message: str) -> None:
    with pytest.raises(AssayError, match=message):
        make_target(labels)


def test_a_hostile_label_can_not_move_the_cursor_in_an_error() -> None:
    with pytest.raises(AssayError) as caught:
        make_target(["\x1b[2J\u202eevil"] * 50)
    assert all(c.isprintable() for c in str(caught.value).replace("\n", ""))
