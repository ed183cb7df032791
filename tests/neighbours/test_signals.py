"""A polite end: what one signal does, what two do, and what the death of a launcher does."""

import os
import signal
import sys
import time

import pytest

from tests.neighbours.scripts import begin, end_of, has_ended, kill, line_of

# A main thread that computes in C, where it comes to no bytecode: first a training's loop, then
# what comes before it. `steps` says how many half seconds a step takes.
LOOP = """
import hashlib, sys, time
from chatlm import cli
from chatlm.neighbours.signals import StopRequest
def in_c(seconds):
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds * per_second))
def main(argv):
    global per_second
    started = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    per_second = 100_000 / (time.perf_counter() - started)
    with StopRequest() as stop:
        if argv[0] == "before":
            print("before", flush=True)
            in_c(float(argv[1]))
        with stop.finishing_steps():
            print("loop", flush=True)
            for step in range(1000):
                in_c(float(argv[1]))
                print("step", step, flush=True)
                if stop.code:
                    print("saved", flush=True)
                    stop.exit(stop.code)
    return 0
if sys.argv[1] == "slow end":
    import atexit
    atexit.register(in_c, 60)
cli.run(main)
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SHELL = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""
LAUNCHED = {"TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_one_signal_lets_the_step_end(number):
    process = begin(LOOP, "loop", 0.3)
    assert line_of(process) == "loop"
    process.send_signal(number)
    assert [line_of(process), line_of(process)] == ["step 0", "saved"]
    code, errors, _ = end_of(process)
    assert code == CODES[number]
    assert errors.count("\n") == 1
    assert f"{number.name}: finishing the step and saving" in errors


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_second_signal_ends_it_at_once_though_the_main_thread_is_in_c(number):
    process = begin(LOOP, "loop", 60)
    assert line_of(process) == "loop"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(number)
    code, _, seconds = end_of(process)
    assert code == CODES[number]
    assert seconds < 1


def test_two_signals_at_once_are_one_as_timeout_sends_them():
    process = begin(LOOP, "loop", 0.5)
    assert line_of(process) == "loop"
    for number in (signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    assert [line_of(process), line_of(process)] == ["step 0", "saved"]
    assert end_of(process)[0] in (143, 129)


def test_before_the_loop_a_signal_ends_it_though_the_main_thread_is_in_c():
    process = begin(LOOP, "before", 60)
    assert line_of(process) == "before"
    process.send_signal(signal.SIGTERM)
    code, errors, seconds = end_of(process)
    assert code == 143
    assert "SIGTERM: there is nothing to save" in errors
    assert seconds < 5


def test_before_the_loop_a_signal_unwinds_the_program():
    script = """
import time
from chatlm import cli
from chatlm.neighbours.signals import StopRequest
def main(argv):
    with StopRequest():
        try:
            print("waiting", flush=True)
            time.sleep(60)
        finally:
            print("unwound", flush=True)
    return 0
cli.run(main)
"""
    process = begin(script)
    assert line_of(process) == "waiting"
    process.send_signal(signal.SIGINT)
    assert line_of(process) == "unwound"
    assert end_of(process)[0] == 130


def test_a_signal_between_the_last_look_and_the_end_of_the_loop_counts():
    script = """
import os, signal, time
from chatlm import cli
from chatlm.neighbours.signals import StopRequest
def main(argv):
    with StopRequest() as stop, stop.finishing_steps():
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.code:
            time.sleep(0.01)
    return 0
cli.run(main)
"""
    assert end_of(begin(script))[0] == 143


@pytest.fixture
def shell_and_child():
    """Returns a function that starts the loop as the child of another process."""
    started = []

    def start(*words, prefix=(), env=None):
        shell = begin(SHELL, *prefix, sys.executable, "-c", LOOP, *words, env=env)
        child = int(line_of(shell))
        started.append((shell, child))
        assert line_of(shell) in ("loop", "before")
        return shell, child

    yield start
    for shell, child in started:
        kill(child)
        shell.kill()
        shell.communicate()


def test_nohup_outlives_its_shell_and_a_hang_up(shell_and_child):
    shell, child = shell_and_child("loop", 0.2, prefix=["nohup"])
    shell.kill()
    os.kill(child, signal.SIGHUP)
    os.kill(child, signal.SIGHUP)
    assert not has_ended(child, 6)
    os.kill(child, signal.SIGTERM)
    assert has_ended(child, 2)


def test_the_death_of_the_launcher_lets_the_step_end(shell_and_child):
    shell, child = shell_and_child("loop", 0.3, env=LAUNCHED)
    shell.kill()
    said = [line_of(shell)]
    while said[-1].startswith("step"):
        said.append(line_of(shell))
    assert said[-1] == "saved"
    assert has_ended(child, 2)
    _, errors, _ = end_of(shell)
    assert f"the launcher (pid {shell.pid}) died: finishing the step and saving" in errors
    assert "the launcher died and the run has stopped: use resume=True" in errors


@pytest.mark.parametrize("where", ["loop", "before"])
def test_five_seconds_after_the_launcher_nothing_is_left(shell_and_child, where):
    shell, child = shell_and_child(where, 60, env=LAUNCHED)
    shell.kill()
    assert has_ended(child, 5)


def test_the_end_of_the_interpreter_has_no_more_time_than_that(shell_and_child):
    shell, child = shell_and_child("slow end", 0.3, env=LAUNCHED)
    shell.kill()
    assert has_ended(child, 5)


def test_a_launcher_that_died_before_anyone_looked_is_missed_all_the_same(tmp_path):
    # The child of a process that has ended belongs to the first process of the machine.
    shell = begin(
        "import os, subprocess, sys, time\n"
        "if not os.fork():\n    time.sleep(0.3)\n    os.execv(sys.argv[1], sys.argv[1:])",
        *(sys.executable, "-c", LOOP, "loop", 60),
        env=LAUNCHED,
    )
    _, errors, seconds = end_of(shell)
    assert "died: there is nothing to save" in errors or "died: finishing" in errors
    assert seconds < 6


def test_a_signal_that_the_launcher_passes_on_again_is_one_signal(shell_and_child):
    shell, child = shell_and_child("loop", 1, env=LAUNCHED)
    for _ in range(2):
        os.kill(child, signal.SIGTERM)
        time.sleep(0.1)
    assert line_of(shell).startswith("step")
    assert line_of(shell) == "saved"
    assert has_ended(child, 2)


def test_a_forked_child_does_not_speak_for_its_parent():
    script = """
import os, signal, time
from chatlm.neighbours.signals import StopRequest
with StopRequest() as stop, stop.finishing_steps():
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b".")
        time.sleep(60)
        os._exit(0)
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    time.sleep(0.5)
    assert not stop.code
"""
    code, errors, _ = end_of(begin(script))
    assert code == 0, errors
