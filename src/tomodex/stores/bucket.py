"""A bucket that files are put into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tomodex.errors import Misconfigured, Unavailable
from tomodex.options import read_options, without_query
from tomodex.probe import Probe
from tomodex.sources.gate import Gate
from tomodex.sources.s3.bucket import Bucket, S3Options


class BucketStore:
    """`s3://bucket/prefix?endpoint=https://s3.example&key=env:KEY&secret=file:/run/secrets/s3`"""

    only_dicom = False

    def __init__(self, url: str, *, state: Path) -> None:
        self.url = without_query(url)
        options = read_options(url, S3Options)
        store = f"s3://{urlsplit(self.url).netloc}"
        self._bucket = _Writable(url, options, Gate(store, state, options))

    def put(self, files: Sequence[Path], below: str) -> Sequence[str]:
        prefix = self._bucket.prefix.rstrip("/")
        folder = "/".join(filter(None, (prefix, below)))
        return [self._bucket.put(f"{folder}/{file.name}".lstrip("/"), file) for file in files]

    def probe(self) -> Iterator[Probe]:
        """Whether it answers and lets us list; whether it may be written to, only a write tells."""
        try:
            next(self._bucket.objects(), None)
        except Unavailable as refused:
            # Who may write need not be permitted to list.
            advice = "permit ListBucket, or see whether masks arrive"
            yield Probe(subject="bucket", verdict="doubtful", sentence=str(refused), advice=advice)
        except Misconfigured as wrong:
            advice = "see that bucket, endpoint and credentials are the right ones"
            yield Probe(subject="bucket", verdict="wrong", sentence=str(wrong), advice=advice)
        else:
            yield Probe(subject="bucket", verdict="ok", sentence=f"{self.url} answers")

    def close(self) -> None:
        """Nothing is held open."""


class _Writable(Bucket):
    def put(self, key: str, file: Path) -> str:
        """Upload a file as one object, whole or not at all; return its URL."""
        with self._asking() as client, file.open("rb") as body:
            client.put_object(Bucket=self.name, Key=key, Body=body)
        return f"s3://{self.name}/{key}"
