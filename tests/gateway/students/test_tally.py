"""What the processes that share a registry have counted of a canary's step."""

from __future__ import annotations

from pathlib import Path

from gateway.students.tally import Count, Tally


def test_the_total_is_of_all_who_count_the_same_step_and_outlives_them(tmp_path: Path) -> None:
    one, two = Tally(tmp_path, "one"), Tally(tmp_path, "two")
    first = Count(bundle="tickets-1", since=10.0)
    assert one.total(first) == 0
    assert list(tmp_path.iterdir()) == []  # nothing is counted, so nothing is written
    assert one.total(first.model_copy(update={"rows": 3})) == 3
    assert two.total(first.model_copy(update={"rows": 4})) == 7
    again = Tally(tmp_path, "three")  # one of them was started again
    assert again.total(first.model_copy(update={"rows": 1})) == 8
    second = Count(bundle="tickets-1", since=20.0)
    assert two.total(second) == 0
    assert one.total(second.model_copy(update={"rows": 2})) == 2
    assert {each.name for each in tmp_path.iterdir()} == {".canary-one.json", ".canary-two.json"}


def test_a_file_that_is_not_whole_counts_nothing_and_a_lost_folder_costs_the_sum(
    tmp_path: Path,
) -> None:
    (tmp_path / ".canary-odd.json").write_text('{"bundle": "tickets-1", "si')
    count = Count(bundle="tickets-1", since=10.0, rows=2)
    assert Tally(tmp_path, "one").total(count) == 2
    assert Tally(tmp_path / "nowhere", "one").total(count) == 2
