from __future__ import annotations

import hashlib
import json
import re
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.nnunet_models import write_model
from tomodex import weights
from tomodex.errors import Misconfigured, Unavailable
from tomodex.segmenters.totalsegmentator.models import MODELS, Model
from tomodex.weights import (
    fetch_weights,
    import_weights,
    list_weights,
    models_named,
    verify_weights,
)

NAME = MODELS[297].name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of results with one model, called as the 3 mm model is, and a picture."""
    root = tmp_path_factory.mktemp("trained")
    folder = write_model(root)
    (folder.parent).rename(root / NAME)
    (root / NAME / folder.name / "progress.png").write_bytes(b"picture")
    return root


@pytest.fixture(scope="module")
def archive(trained, tmp_path_factory):
    """The model as it is published: a .zip."""
    path = tmp_path_factory.mktemp("published") / f"{NAME}.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(trained.rglob("*")):
            packed.write(file, file.relative_to(trained))
    return path


def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


NEEDED = {
    f"{NAME}/nnUNetTrainer__nnUNetPlans__3d_fullres/{file}"
    for file in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")
}


# --- import -------------------------------------------------------------------------------------


def test_an_archive_is_imported_without_what_nobody_needs(archive, tmp_path):
    assert import_weights(archive, tmp_path / "results") == [NAME]
    assert files(tmp_path / "results") == NEEDED


def test_a_tar_is_imported_too(trained, tmp_path):
    with tarfile.open(tmp_path / "weights.tar.gz", "w:gz") as packed:
        packed.add(trained, arcname="nnunet/results")
    import_weights(tmp_path / "weights.tar.gz", tmp_path / "results")
    assert files(tmp_path / "results") == NEEDED


@pytest.mark.parametrize("given", [".", NAME, f"{NAME}/nnUNetTrainer__nnUNetPlans__3d_fullres"])
def test_a_folder_is_imported_from_any_level(trained, tmp_path, given):
    import_weights(trained / given, tmp_path / "results")
    assert files(tmp_path / "results") == NEEDED


def test_what_is_there_already_stays(archive, tmp_path):
    import_weights(archive, tmp_path)
    (kept,) = tmp_path.rglob("plans.json")
    before = kept.stat().st_mtime_ns
    assert import_weights(archive, tmp_path) == [NAME]
    assert kept.stat().st_mtime_ns == before


def test_other_weights_are_not_put_over_those_there(archive, tmp_path):
    import_weights(archive, tmp_path)
    (checkpoint,) = tmp_path.rglob("*.pth")
    checkpoint.write_bytes(b"others")
    with pytest.raises(Misconfigured, match="other weights; remove it first"):
        import_weights(archive, tmp_path)
    assert checkpoint.read_bytes() == b"others"


def test_no_path_of_an_archive_is_followed(trained, tmp_path):
    path = tmp_path / "a" / "weights.zip"
    path.parent.mkdir()
    model = f"{NAME}/nnUNetTrainer__nnUNetPlans__3d_fullres"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted((trained / model).rglob("*.*")):
            inner = file.relative_to(trained / model)
            packed.write(file, f"../../{model}/{inner}")
        packed.writestr("../../evil.txt", "x")
        packed.writestr("/tmp/plans.json", "x")
        packed.writestr("Dataset297_..%2f/../../plans.json", "x")
    import_weights(path, tmp_path / "a" / "results")
    assert files(tmp_path / "a" / "results") == NEEDED
    assert files(tmp_path) == {"a/weights.zip", *(f"a/results/{file}" for file in NEEDED)}


def test_a_link_in_a_tar_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "weights.tar", "w") as packed:
        link = tarfile.TarInfo(f"{NAME}/a__b__c/plans.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        packed.addfile(link)
    with pytest.raises(Misconfigured, match="there is no folder"):
        import_weights(tmp_path / "weights.tar", tmp_path / "results")


def break_plans(folder):
    (folder / "plans.json").write_text("{}")


def break_checkpoint(folder):
    (folder / "fold_0/checkpoint_final.pth").write_bytes(b"\x80\x02cos\nsystem\n(U\x04trueetR.")


def lose_dataset(folder):
    (folder / "dataset.json").unlink()


@pytest.mark.parametrize("harm", [break_plans, break_checkpoint, lose_dataset])
def test_a_broken_model_is_not_put_in_place(tmp_path, harm):
    folder = write_model(tmp_path / "given")
    harm(folder)
    with pytest.raises(Misconfigured):
        import_weights(tmp_path / "given", tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("weights.zip", b"no zip"), ("weights.tar.gz", b"no tar"), ("weights.rar", b"x")],
)
def test_what_is_no_archive_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Misconfigured, match=re.escape(name)):
        import_weights(tmp_path / name, tmp_path / "results")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(Misconfigured, match="nowhere"):
        import_weights(tmp_path / "nowhere.zip", tmp_path / "results")


# --- list, verify -------------------------------------------------------------------------------


def test_models_are_listed_with_their_size(archive, tmp_path):
    assert list_weights(tmp_path) == []
    import_weights(archive, tmp_path)
    (found,) = list_weights(tmp_path)
    assert (found.number, found.name) == (297, NAME)
    assert found.size_bytes == (found.folder / "fold_0/checkpoint_final.pth").stat().st_size > 1000


def known(checkpoint_sha256):
    return {297: replace(MODELS[297], checkpoint_sha256=checkpoint_sha256)}


@pytest.mark.parametrize("verdict", ["official", "unknown", "different"])
def test_a_checkpoint_is_compared_with_the_published_one(archive, tmp_path, monkeypatch, verdict):
    import_weights(archive, tmp_path)
    (checkpoint,) = tmp_path.rglob("*.pth")
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    published = {"official": sha256, "unknown": "", "different": "0" * 64}[verdict]
    monkeypatch.setattr(weights, "MODELS", known(published))
    (found,) = verify_weights(tmp_path)
    assert (found.verdict, found.weights_sha256) == (verdict, sha256)
    assert verdict == "official" or sha256 in found.sentence


def test_a_model_of_somebody_else_is_unknown(tmp_path):
    write_model(tmp_path)
    (found,) = verify_weights(tmp_path)
    assert (found.installed.number, found.verdict) == (999, "unknown")


def test_a_broken_model_is_told_and_the_next_is_looked_at(archive, tmp_path):
    break_checkpoint(write_model(tmp_path))
    import_weights(archive, tmp_path)
    verdicts = {found.installed.number: found.verdict for found in verify_weights(tmp_path)}
    assert verdicts == {297: "different", 999: "broken"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("297", (297,)),
        ("total", (297,)),
        ("total/6", (298,)),
        ("total/1.5", (291, 292, 293, 294, 295)),
        ("total_mr", (852,)),
    ],
)
def test_weights_have_numbers_and_names(text, numbers):
    assert tuple(model.number for model in models_named(text)) == numbers


@pytest.mark.parametrize("text", ["1", "total/2", "liver", "", "²"])
def test_weights_that_nobody_publishes_have_no_name(text):
    with pytest.raises(Misconfigured, match=r"total/1\.5"):
        models_named(text)


def test_releases_are_fetched_from_the_projects_own_place_by_https():
    for model in MODELS.values():
        assert model.url == (
            "https://github.com/wasserth/TotalSegmentator/releases/download/"
            f"{model.release}/{model.name}.zip"
        )


# --- fetch --------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves one file, and misbehaves as it is told to."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = content, '"one"'
        self.stop_after, self.status, self.to = [], 200, ""
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.zip"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, ask = self.server, self.headers
        server.asked.append(ask.get("Range"))
        if server.to:
            self.send_response(302)
            self.send_header("Location", server.to)
            self.end_headers()
            return
        begin = 0
        if ask.get("Range") and ask.get("If-Range") == server.etag:
            begin = int(re.match(r"bytes=(\d+)-$", ask["Range"])[1])
        status = server.status if server.status != 200 else (206 if begin else 200)
        if status == 206 and begin >= len(server.content):
            status = 416
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-/{len(server.content)}")
        body = server.content[begin:] if status < 400 else b""
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.stop_after:
            body = body[: server.stop_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server(archive, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(archive.read_bytes()) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(Model, "url", property(lambda model: running.url))
        yield running
        running.shutdown()
        thread.join()


def published(content):
    return replace(MODELS[297], archive_sha256=hashlib.sha256(content).hexdigest())


def test_fetched_weights_are_put_in_place(server, tmp_path):
    told = []
    fetch_weights(published(server.content), tmp_path, lambda done, of: told.append((done, of)))
    assert files(tmp_path) == NEEDED
    assert told[-1] == (len(server.content), len(server.content))


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.stop_after = [700, 900]
    fetch_weights(published(server.content), tmp_path)
    assert server.asked == [None, "bytes=700-", "bytes=1600-"]
    assert files(tmp_path) == NEEDED


def test_what_came_is_kept_for_the_next_attempt(server, tmp_path):
    server.stop_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable, match="what came is kept"):
        fetch_weights(published(server.content), tmp_path)
    assert list_weights(tmp_path) == []
    fetch_weights(published(server.content), tmp_path)
    assert server.asked[-1] == "bytes=1000-"
    assert files(tmp_path) == NEEDED


@pytest.mark.parametrize("etag", ['"two"', "", 'W/"one"'], ids=["other", "none", "weak"])
def test_a_file_that_may_have_changed_is_fetched_anew(server, tmp_path, etag):
    server.etag = etag if etag != '"two"' else '"one"'
    server.stop_after = [1000, 0, 0, 0]
    with pytest.raises(Unavailable):
        fetch_weights(published(b""), tmp_path)
    server.etag = etag
    fetch_weights(published(server.content), tmp_path)
    assert files(tmp_path) == NEEDED


def test_weights_that_are_not_the_published_ones_are_thrown_away(server, tmp_path):
    with pytest.raises(Misconfigured, match="nothing was kept"):
        fetch_weights(published(b"something else"), tmp_path)
    assert files(tmp_path) == set()


def test_a_model_whose_checksum_nobody_knows_is_fetched_all_the_same(server, tmp_path):
    fetch_weights(replace(MODELS[297], archive_sha256=""), tmp_path)
    assert files(tmp_path) == NEEDED


def test_a_kept_part_that_is_too_long_is_thrown_away(server, tmp_path):
    part = tmp_path / f".{NAME}.zip.part"
    part.write_bytes(server.content + b"more")
    part.with_name(f"{part.name}.json").write_text(json.dumps({"validator": '"one"'}))
    fetch_weights(published(server.content), tmp_path)
    assert files(tmp_path) == NEEDED


@pytest.mark.parametrize("note", ["{", "[]", "3", '{"validator": ""}'])
def test_a_kept_part_of_nobody_knows_what_is_thrown_away(server, tmp_path, note):
    part = tmp_path / f".{NAME}.zip.part"
    part.write_bytes(b"x" * 100)
    part.with_name(f"{part.name}.json").write_text(note)
    fetch_weights(published(server.content), tmp_path)
    assert server.asked == [None]
    assert files(tmp_path) == NEEDED


def test_a_file_that_is_not_there_is_the_operators_business(server, tmp_path):
    server.status = 404
    with pytest.raises(Misconfigured, match="404"):
        fetch_weights(MODELS[297], tmp_path)
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again_and_not_for_ever(server, tmp_path):
    server.status = 503
    with pytest.raises(Unavailable, match="503"):
        fetch_weights(MODELS[297], tmp_path)
    assert len(server.asked) == 3


def test_a_server_that_is_not_there_is_unavailable(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "url", "http://127.0.0.1:1/weights.zip")
    with pytest.raises(Unavailable):
        fetch_weights(MODELS[297], tmp_path)


def test_more_than_any_model_has_is_not_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "MAX_BYTES", 1000)
    with pytest.raises(Misconfigured, match="more than 1000"):
        fetch_weights(published(server.content), tmp_path)


def test_a_redirect_from_https_to_http_is_refused():
    request = weights.urllib.request.Request("https://example.org/weights.zip")
    with pytest.raises(Misconfigured, match="not https"):
        weights._SameSafety().redirect_request(
            request, None, 302, "Found", {}, "http://example.org/weights.zip"
        )


def test_a_redirect_is_followed(server, archive, tmp_path):
    with Server(archive.read_bytes()) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.to = other.url
        fetch_weights(published(server.content), tmp_path)
        other.shutdown()
        thread.join()
    assert files(tmp_path) == NEEDED
