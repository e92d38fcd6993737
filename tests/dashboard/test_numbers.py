import pytest

from assay.dashboard import numbers


@pytest.mark.parametrize(
    ("n", "shown"),
    [(0, "0"), (7, "7"), (9999, "9,999"), (10_000, "10.0K"), (223_456, "223K"), (999_499, "999K"), (999_500, "1.00M"),
     (1_509_000_000, "1.51B"), (2_000_000_000_000, "2.00T")],
)  # fmt: skip
def test_counts_have_three_digits(n: int, shown: str) -> None:
    assert numbers.count(n) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [(0, 0, "–"), (0, 5, "0 %"), (1, 3, "33.3 %"), (1, 1, "100 %"), (1, 1000, "0.10 %"), (1, 10**6, "<0.01 %"),
     (10**6 - 1, 10**6, ">99.9 %"), (9999, 10_000, ">99.9 %"), (999, 1000, "99.9 %")],
)  # fmt: skip
def test_percentages_never_round_to_nothing_or_to_all(part: int, whole: int, shown: str) -> None:
    assert numbers.percent(part, whole) == shown


@pytest.mark.parametrize(("n", "shown"), [(0, "0"), (500, "500"), (2000, "2K"), (1_500_000, "1.5M"), (10**9, "1B")])
def test_axis_labels_have_no_idle_zeros(n: int, shown: str) -> None:
    assert numbers.tick(n) == shown
