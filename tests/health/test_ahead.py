"""A loader that is slow, fails, dies or hangs: noticed, named, and never in the way of the end."""

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

import pytest

from chatlm.dataset.ahead import Ahead
from chatlm.errors import NeighbourError, StorageError


def ahead(make, keys: Iterable[int] = range(10), **settings):
    return Ahead(make, keys, ahead=2, source="train.parquet", **settings)


def test_results_come_in_order_and_at_most_two_are_made_ahead():
    made = []

    def make(key):
        made.append(key)
        return key * key

    for number, result in enumerate(ahead(make)):
        time.sleep(0.01)
        assert result == number * number
        # Two wait, one more is in the thread's hand.
        assert len(made) <= number + 4
    assert made == list(range(10))


def test_nothing_to_make_is_no_result():
    assert list(ahead(str, [])) == []


def test_who_stops_asking_ends_the_thread():
    before = threading.active_count()
    results = ahead(str, range(10**9)).__iter__()
    assert next(results) == "0"
    results.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == before


def fails_at_three(error):
    def make(key):
        if key == 3:
            raise error
        return key

    return make


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (
            OSError(errno.EIO, "Input/output error"),
            StorageError,
            "cannot read step 3 of train.parquet: .*Input/output error; mend the disk",
        ),
        (ValueError("no\nsuch row"), NeighbourError, r"step 3 .*ValueError: no such row \(.*\.py:"),
    ],
)
def test_what_fails_is_one_line_after_all_results_before_it(error, raised, text):
    results = iter(ahead(fails_at_three(error)))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(raised, match=text) as caught:
        next(results)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_without_a_word_is_noticed():
    with pytest.raises(NeighbourError, match="thread ended at step 3"):
        list(ahead(fails_at_three(SystemExit())))


def test_a_hang_is_said_and_then_given_up(capfd):
    gate = threading.Event()

    def make(key):
        if key == 3:
            gate.wait(60)
        return key

    results = iter(ahead(make, patience_seconds=0.1, longest_seconds=2.5))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(NeighbourError, match=r"train\.parquet did not answer for \d+ s \(step 3"):
        next(results)
    gate.set()
    assert capfd.readouterr().err.count("waiting for step 3 of train.parquet") == 1


SCRIPT = """
import threading
from chatlm.dataset.ahead import Ahead
try:
    list(Ahead(lambda _: threading.Event().wait(), [0], ahead=1, source="x", longest_seconds=0.5))
except Exception as error:
    raise SystemExit(error.exit_code)
"""


def test_a_hang_does_not_keep_the_process_from_ending():
    # An ordinary end of Python waits for every thread that is not a daemon.
    done = subprocess.run([sys.executable, "-c", SCRIPT], timeout=60, check=False)
    assert done.returncode == NeighbourError.exit_code
