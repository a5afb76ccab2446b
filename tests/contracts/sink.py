"""What every sink promises; each adapter's tests inherit this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.annotated import LIVER, ONE, SPLEEN
from tomodex.annotation import AnnotatedSeries
from tomodex.sinks import Sink


def series(uid: str, *annotations: object) -> AnnotatedSeries:
    return replace(
        ONE,
        series=replace(ONE.series, series_uid=uid),
        annotations=annotations or ONE.annotations,
    )


class SinkContract:
    @pytest.fixture
    def sink(self) -> Sink:
        raise NotImplementedError

    def held(self, sink: Sink) -> Mapping[str, AnnotatedSeries]:
        """What the other side has now, by Series Instance UID."""
        raise NotImplementedError

    def test_holds_what_was_written(self, sink: Sink) -> None:
        one, other = series("1.1"), series("1.2", LIVER, SPLEEN)
        sink.write([one, other])
        assert self.held(sink) == {"1.1": one, "1.2": other}

    def test_the_last_write_of_a_series_counts(self, sink: Sink) -> None:
        sink.write([series("1.1", LIVER, SPLEEN), series("1.2")])
        newer = series("1.1", SPLEEN)
        sink.write([newer])
        assert self.held(sink)["1.1"] == newer
        assert set(self.held(sink)) == {"1.1", "1.2"}

    def test_the_same_again_does_no_harm(self, sink: Sink) -> None:
        sink.write([series("1.1")])
        sink.write([series("1.1")])
        assert self.held(sink) == {"1.1": series("1.1")}

    def test_forgets_what_the_archive_no_longer_has(self, sink: Sink) -> None:
        sink.write([series("1.1"), series("1.2")])
        sink.erase(["1.1"])
        assert set(self.held(sink)) == {"1.2"}

    def test_a_series_that_comes_back_is_held_again(self, sink: Sink) -> None:
        sink.write([series("1.1")])
        sink.erase(["1.1"])
        sink.write([series("1.1")])
        assert set(self.held(sink)) == {"1.1"}

    def test_erasing_the_unknown_and_writing_nothing_do_nothing(self, sink: Sink) -> None:
        sink.erase(["9.9"])
        sink.erase([])
        sink.write([])
        assert self.held(sink) == {}

    def test_a_probe_finds_nothing_wrong_with_it(self, sink: Sink) -> None:
        sink.write([series("1.1")])
        probes = list(sink.probe())
        assert probes
        assert [probe.sentence for probe in probes if probe.verdict == "wrong"] == []
