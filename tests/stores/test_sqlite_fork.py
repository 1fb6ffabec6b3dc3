"""Processes that use SQLite and fork: nothing acknowledged is lost, and every child can write, or says why not."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from chatring.stores import open_store
from profiles import LONG as IS_LONG
from profiles import slow

PROGRAM = Path(__file__).with_name("fork_program.py")
KINDS = ("used", "closes", "ends", "daemon", "in_mid_append", "through_multiprocessing", "prefork", "in_an_event_loop")
# Of each kind; `make test-kills` has the larger number.
RUNS = 50 if IS_LONG else 2

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def run(kind: str, folder: Path) -> int:
    """Run the program while this process opens and closes the file, and return how many appends were acknowledged."""
    # These tests are not about power cuts, and would mostly wait for the disk.
    url, log = f"sqlite:///{folder}/chat.db?synchronous=OFF", folder / "log"
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            store = open_store(url)
            store.length("ada")
            store.close()  # the last one to close removes the write-ahead log

    looker = threading.Thread(target=look)
    looker.start()
    try:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(PROGRAM), url, str(log), kind]
        # Until the last child has closed the pipe.
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        ended.set()
        looker.join()
    assert (result.returncode, result.stderr) == (0, "")
    acknowledged = log.read_text().splitlines()
    store = open_store(url)
    assert sorted(message["content"] for message in store.all("ada")) == sorted(acknowledged)
    store.close()
    assert sorted(path.name for path in folder.iterdir()) == ["chat.db", "log"]
    return len(acknowledged)


@slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_when_processes_fork(kind: str, tmp_path: Path) -> None:
    acknowledged = 0
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        acknowledged += run(kind, folder)
    print(f"{kind}: {RUNS} runs, {acknowledged} appends acknowledged, all of them stored")
    assert acknowledged >= RUNS * 40  # the least that a kind appends


USER = """
def user(text):
    return {"role": "user", "content": text}
"""

# A child that inherits an open connection, as of a fork that nobody announced, or of one within a transaction.
INHERITS = r"""
import ctypes, os, sys
from chatring.stores import StoreError, open_store

how, url = sys.argv[1:]
ONE = user("one")

forked = []

def count(text):
    # With the message before it, which ends in whitespace. Others are quicker three times: then within a transaction.
    if text.endswith("\n fork now") and len(forked) < 4:
        forked.append(True)
        if len(forked) < 4:
            quicker.append("ada", [user("quicker\n")])
        else:
            check(os.fork())
    return text.split()

def check(child):
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    own = open_store(url, counter=count, counter_name="words", measure="text")
    for call in (lambda: store.append("ada", [ONE]), lambda: own.append("ada", [ONE]), lambda: own.length("ada")):
        try:
            call()
        except StoreError as error:
            assert type(error) is StoreError, error
            assert f"was in use when process {parent} forked into this one, {os.getpid()}" in str(error), error
        else:
            os._exit(3)
    other = open_store(url + ".other")  # nobody had it open
    other.append("ada", [ONE])
    other.close()
    del other, own
    if how == "in the counter":
        return  # goes on with its parent's transaction
    sys.exit(0)

parent = os.getpid()
quicker = open_store(url, counter=count, counter_name="words", measure="text")
store = open_store(url, counter=count, counter_name="words", measure="text")
store.append("ada", [user("before\n")])
if how == "from C":
    check(ctypes.PyDLL(None).fork())
else:
    try:
        store.append("ada", [user("fork now")])
    except StoreError as error:
        assert os.getpid() != parent and "forked into this one" in str(error), error
        sys.exit(0)
store.append("ada", [user("after")])
store.close()
quicker.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ctypes finds fork otherwise elsewhere")
@pytest.mark.parametrize("how", ["from C", "in the counter"])
def test_a_child_that_inherits_a_connection_refuses_the_file(how: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    result = subprocess.run(
        [sys.executable, "-c", USER + INHERITS, how, url], capture_output=True, text=True, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    texts = ["before\n", *["quicker\n"] * 3, "fork now", "after"] if how == "in the counter" else ["before\n", "after"]
    store = open_store(url, counter=str.split, counter_name="words", measure="text")
    assert [message["content"] for message in store.all("ada")] == texts
    store.close()


# A transaction that does not end before the fork: the fork goes on after a while, and so does everything else.
LONG = r"""
import os, sys, threading
from chatring.stores import StoreError, open_store
from chatring.stores.sql import fork

fork._WAIT_SECONDS = 0.2
counting, forked = threading.Event(), threading.Event()

tries = []

def count(text):
    if text.endswith("\n slow") and len(tries) < 4:
        tries.append(text)
        if len(tries) < 4:
            quicker.append("ada", [user("quicker\n")])
        else:  # within a transaction
            counting.set()
            assert forked.wait(300)
    return text.split()

quicker = open_store(sys.argv[1], counter=count, counter_name="words", measure="text")
store = open_store(sys.argv[1], counter=count, counter_name="words", measure="text")
store.append("ada", [user("before\n")])
thread = threading.Thread(target=store.append, args=("ada", [user("slow")]))
thread.start()
assert counting.wait(300)
child = os.fork()
if child == 0:
    try:
        store.length("ada")
    except StoreError as error:
        os._exit("was in use when process" not in str(error))
    os._exit(3)
forked.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
assert store.length("ada") == 5
child = os.fork()  # nothing is open now
if child == 0:
    store.append("ada", [user("child")])
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert store.length("ada") == 6
store.close()
quicker.close()
"""


def test_a_fork_does_not_wait_for_ever(sqlite_url: str) -> None:
    subprocess.run([sys.executable, "-c", USER + LONG, sqlite_url], check=True, timeout=300)


# Stores that nobody closed, a fork within a fork's hook, forks of several threads at once, a fork that fails.
MANY = """
import gc, os, resource, sys, threading
from chatring.stores import open_store

def use():
    open_store(sys.argv[1]).append("ada", [user("left")])

use()
gc.collect()
store = open_store(sys.argv[1])
failed = []

def fork(number):
    store.append("ada", [user("thread")])
    child = os.fork()
    if child == 0:
        store.append("ada", [user("child")])
        store.close()
        os._exit(0)
    failed.append(os.waitpid(child, 0)[1])

threads = [threading.Thread(target=fork, args=(number,)) for number in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert failed == [0] * 6, failed
assert store.length("ada") == 13, store.length("ada")
store.close()
"""


def test_threads_that_fork_at_once(sqlite_url: str) -> None:
    subprocess.run([sys.executable, "-c", USER + MANY, sqlite_url], check=True, timeout=300)
