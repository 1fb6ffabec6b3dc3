"""The fixture `interruptible` of conftest.py, where the parent ignores SIGINT."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def _ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.usefixtures("_ignored", "interruptible")
def test_sigint_interrupts_this_process_and_its_children() -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    interrupts_itself = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    child = subprocess.run([sys.executable, "-c", interrupts_itself], stderr=subprocess.DEVNULL, timeout=300)
    assert child.returncode == -signal.SIGINT
