"""What the query of a URL sets, and how it names secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import model_validator

from tomodex.errors import Misconfigured
from tomodex.options import Options, Secret, read_options, without_query


class Asked(Options):
    size: int = 3
    token: Secret | None = None


def test_what_is_not_given_has_its_default() -> None:
    assert read_options("x://host/path", Asked) == Asked(size=3, token=None)


def test_a_number_is_read_as_one() -> None:
    assert read_options("x://host?size=7", Asked).size == 7


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("colour=red", r"colour.*\(options are size, token\)"),
        ("size=1&size=2", "size is given twice"),
        ("size=many", "size: "),
    ],
)
def test_a_wrong_option_is_named(query: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        read_options(f"x://host?{query}", Asked)


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    asked = read_options(f"x://host?token=file:{tmp_path}/token", Asked)
    assert asked.token is not None
    assert asked.token.read() == "s3cret"
    assert "s3cret" not in repr(asked)


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_TOKEN", "s3cret")
    asked = read_options("x://host?token=env:PACS_TOKEN", Asked)
    assert asked.token is not None
    assert asked.token.read() == "s3cret"


@pytest.mark.parametrize("place", ["file:/nowhere/at/all", "env:NOT_SET_ANYWHERE"])
def test_a_secret_that_is_not_there_is_said(place: str) -> None:
    with pytest.raises(Misconfigured, match="secret"):
        Secret(place).read()


@pytest.mark.parametrize("url", ["x://host?token=s3cret", "x://me:s3cret@host/path?size=1"])
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        read_options(url, Asked)
    assert "s3cret" not in str(refused.value)
    assert "file:/run/secrets" in str(refused.value)


def test_a_url_is_shown_without_options_and_password() -> None:
    assert without_query("x://me:s3cret@host:1/a/b?size=1") == "x://me@host:1/a/b"


@pytest.mark.parametrize("url", ["folder:///data/a%20b", "spool:///srv", "sqlite:", "s3://b/p"])
def test_a_url_without_options_is_shown_as_it_is(url):
    assert without_query(url) == url
    assert without_query(f"{url}?a=1") == url


class Together(Options):
    low: int = 0
    high: int = 9

    @model_validator(mode="after")
    def _in_order(self) -> Together:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def test_options_that_do_not_go_together_are_said() -> None:
    with pytest.raises(Misconfigured, match=r"low is above high \(options are low, high\)"):
        read_options("x://host?low=10", Together)
