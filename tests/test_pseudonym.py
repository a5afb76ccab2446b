from __future__ import annotations

import hashlib
import stat
import threading

import pytest

from tomodex.errors import Misconfigured
from tomodex.pseudonym import load_key, pseudonymizer


def test_one_patient_one_pseudonym_under_one_key():
    here, there = pseudonymizer(b"k" * 32), pseudonymizer(b"K" * 32)
    assert here("4711") == here("4711")
    assert here("4711") != here("4712")
    assert here("4711") != there("4711")


def test_a_pseudonym_is_no_plain_hash():
    """Or anybody could try all patient numbers."""
    hashes = {hashlib.new(name, b"4711").hexdigest()[:32] for name in ("md5", "sha1", "sha256")}
    assert pseudonymizer(b"k" * 32)("4711") not in hashes


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "new" / "pseudonym.key"
    assert load_key(path) == load_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["pseudonym.key"]


def test_threads_that_start_together_share_one_key(tmp_path):
    keys: list[bytes] = []
    path = tmp_path / "pseudonym.key"
    threads = [threading.Thread(target=lambda: keys.append(load_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    with pytest.raises(Misconfigured, match="has 6 bytes, needs 16 or more"):
        load_key(tmp_path / "key")


def test_a_key_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(Misconfigured, match="Is a directory"):
        load_key(tmp_path)
