"""Models by their name on the hub: from its cache without a network, and from a local server that answers like it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgecolbert import Encoder, Index
from edgecolbert.builtin import resolve_model_folder
from edgecolbert.errors import MissingExtraError, ModelIntegrityError, ModelNotFoundError
from edgecolbert.hub import HubName
from edgecolbert.manifest import FileRecord, ModelManifest

TINY = Path(__file__).parent / "fixtures" / "tiny-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_snapshot(cache: Path, name: str, *, kind: str = "model", commit: str = COMMIT) -> Path:
    """An empty snapshot of a repository in the layout of the hub's cache, as its main branch."""
    repository = cache / f"{kind}s--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a hub that nobody answers for."""
    constants = pytest.importorskip("huggingface_hub.constants")
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # Older versions keep a copy.
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(folder), raising=False)
    return folder


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("lightonai/ColBERT-Zero", "lightonai/ColBERT-Zero", ""),
        ("a/b@v1.0", "a/b", "v1.0"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        (f"a/b@{COMMIT}", "a/b", COMMIT),
    ],
)
def test_a_name_of_the_hub_may_name_a_revision(text: str, repository: str, revision: str) -> None:
    name = HubName.parse(text)
    assert name == HubName(repository, revision)
    assert str(name) == text


@pytest.mark.parametrize("text", ["", "a", "./a", "../a", "/a/b", "a/b/c", "~/a", "a/b@", "a/", "/b", "a b/c", "a/b\n"])
def test_what_is_no_name_of_the_hub_stays_a_path(text: str) -> None:
    assert HubName.parse(text) is None


@pytest.mark.parametrize("name", ["owner/tiny", "owner/tiny@main", f"owner/tiny@{COMMIT}"])
def test_a_model_in_the_cache_is_loaded_without_a_network(cache: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(TINY, cache_snapshot(cache, "owner/tiny"), dirs_exist_ok=True)
    assert Encoder.load(name).manifest.fingerprint == ModelManifest.read(TINY).fingerprint
    with Index.open(tmp_path / "a.db", model=name) as index:
        index.add(["Bees dance."])
    with Index.open(tmp_path / "a.db") as index:
        assert index.search("bees", k=1)[0].text == "Bees dance."


def test_a_file_outlives_the_cache_that_its_model_came_from(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY, cache_snapshot(cache, "owner/tiny"), dirs_exist_ok=True)
    with Index.open(tmp_path / "a.db", model="owner/tiny") as index:
        index.add(["Bees dance."])
    moved = cache.rename(tmp_path / "another-cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(moved))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(moved), raising=False)
    with Index.open(tmp_path / "a.db") as index:
        assert index.search("bees")[0].text == "Bees dance."


def test_what_is_wrong_in_the_cache_is_noticed_as_in_any_folder(cache: Path) -> None:
    folder = cache_snapshot(cache, "owner/tiny")
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelIntegrityError, match=r"model\.onnx has"):
        Encoder.load("owner/tiny")


def test_a_model_that_is_not_in_the_cache_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"The model 'owner/none' is no folder here, and cannot be fetched"):
        Encoder.load("owner/none")
    shutil.copytree(TINY, cache_snapshot(cache, "owner/tiny"), dirs_exist_ok=True)
    with pytest.raises(ModelNotFoundError, match=r"'owner/tiny@other' is no folder here"):
        Encoder.load("owner/tiny@other")


def test_a_model_that_came_only_in_part_is_not_used(cache: Path) -> None:
    folder = cache_snapshot(cache, "owner/tiny")
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"cannot be fetched"):
        Encoder.load("owner/tiny")


def test_built_in_names_and_folders_never_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("edgecolbert.hub.find_model", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    assert resolve_model_folder("owner/tiny") == Path("owner/tiny")
    assert resolve_model_folder("starter").is_dir()
    with pytest.raises(ModelNotFoundError, match="nor a folder"):
        resolve_model_folder(Path("owner/none"))


def test_a_name_of_the_hub_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"'owner/tiny' is no folder here; .*pip install 'edgecolbert\[hub\]'"):
        Encoder.load("owner/tiny")


def test_a_name_that_only_a_recipe_has_names_the_command() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"`edgecolbert export lightonai/ColBERT-Zero OUT --recipe colbert-zero`, and name OUT"
    ):
        Encoder.load("colbert-zero")


class Hub(ThreadingHTTPServer):
    """Files of repositories, served as the hub serves them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.stall_at: int | None = None
        self.stalled, self.go_on = threading.Event(), threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, *, body: bool) -> None:
        match = re.fullmatch(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self.path)
        content = self.server.files.get(f"{match['repository']}/{match['file']}") if match else None
        asked_range = self.headers.get("Range")
        if body:
            self.server.asked.append((self.command, self.path, asked_range))
        known = match is not None and any(name.startswith(match["repository"] + "/") for name in self.server.files)
        if content is None:
            self.send_response(404)
            # The hub tells a repository it does not have from a file that a repository does not have.
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            if known:
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked_range.removeprefix("bytes=").rstrip("-").split("-")[0]) if asked_range else 0
        self.send_response(206 if asked_range else 200)
        if asked_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        stall = self.server.stall_at
        if stall is not None and start < stall < len(content):
            self.wfile.write(content[start:stall])
            self.wfile.flush()
            self.server.stall_at = None
            self.server.stalled.set()
            self.server.go_on.wait(60)
            self.close_connection = True
            return
        self.wfile.write(content[start:])


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def publish(hub: Hub, repository: str, folder: Path) -> None:
    hub.files |= {f"{repository}/{path.name}": path.read_bytes() for path in folder.iterdir()}


def load(hub: Hub, cache: Path, name: str, **environment: str) -> subprocess.Popen[str]:
    """Load a model in a process of its own: the hub's package reads its environment when it is imported."""
    program = (
        "import sys\nfrom edgecolbert import Encoder\nfrom edgecolbert.errors import EdgeColbertError\n"
        "try: print(Encoder.load(sys.argv[1]).manifest.folder)\n"
        "except EdgeColbertError as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = dict.fromkeys((*names, *(name.lower() for name in names)), "")
    hub_settings = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program, name],
        env=os.environ | proxies | hub_settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    return out.strip(), err.strip()


def test_a_published_export_is_downloaded_once_and_then_never_asked_for(hub: Hub, tmp_path: Path) -> None:
    publish(hub, "owner/tiny", TINY)
    hub.files["owner/tiny/model.safetensors"] = b"weights that a runtime has no use for"
    folder, err = finish(load(hub, tmp_path, "owner/tiny"))
    assert folder, err
    assert Path(folder) == tmp_path / "models--owner--tiny" / "snapshots" / COMMIT
    manifest = ModelManifest.read(TINY)
    fetched = {path.rpartition("/")[2] for _, path, _ in hub.asked}
    assert fetched == {"manifest.json", *manifest.files}
    hub.asked.clear()
    hub.files.clear()
    assert finish(load(hub, tmp_path, "owner/tiny"))[0] == folder
    assert finish(load(hub, tmp_path, f"owner/tiny@{COMMIT}", HF_HUB_OFFLINE="1"))[0] == folder
    assert hub.asked == []


def test_a_repository_without_an_export_says_which_command_makes_one(hub: Hub, tmp_path: Path) -> None:
    hub.files = {f"{name}/config.json": b"{}" for name in ("owner/checkpoint", "lightonai/ColBERT-Zero")}
    for name, command in (
        ("owner/checkpoint", "edgecolbert export owner/checkpoint OUT,"),
        ("lightonai/ColBERT-Zero", "edgecolbert export lightonai/ColBERT-Zero OUT --recipe colbert-zero,"),
        ("owner/checkpoint@v1", "edgecolbert export owner/checkpoint OUT --revision v1,"),
    ):
        _, err = finish(load(hub, tmp_path, name))
        assert f"{name!r} has no ready export, neither manifest.json nor onnx_config.json" in err
        assert command in err
    _, err = finish(load(hub, tmp_path, "owner/nobody"))
    assert err.startswith("ModelNotFoundError: The model 'owner/nobody' is no folder here")


def publish_large(hub: Hub, folder: Path) -> None:
    """A model with a file that is larger than what the hub's package keeps in memory before it writes."""
    shutil.copytree(TINY, folder)
    content = bytes(24_000_000)
    (folder / "large.bin").write_bytes(content)
    manifest = ModelManifest.read(TINY)
    record = FileRecord(len(content), hashlib.sha256(content).hexdigest())
    manifest = replace(manifest, files=manifest.files | {"large.bin": record})
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
    publish(hub, "owner/large", folder)
    hub.stall_at = 22_000_000


def test_a_broken_connection_goes_on_inside_the_file(hub: Hub, tmp_path: Path) -> None:
    publish_large(hub, tmp_path / "published")
    hub.go_on.set()
    found, err = finish(load(hub, tmp_path / "cache", "owner/large"))
    if not found:  # huggingface_hub 0.24 leaves it to the next call
        assert "cannot be fetched" in err
        found, err = finish(load(hub, tmp_path / "cache", "owner/large"))
    assert found, err
    first, second = [part for _, path, part in hub.asked if path.endswith("large.bin")]
    assert first is None
    assert second is not None
    assert int(second.removeprefix("bytes=").split("-")[0]) >= 10_000_000
    assert ModelManifest.read(found).read_file("large.bin") == bytes(24_000_000)


def test_a_download_that_was_killed_goes_on_with_the_files_that_are_missing(hub: Hub, tmp_path: Path) -> None:
    publish_large(hub, tmp_path / "published")
    process = load(hub, tmp_path / "cache", "owner/large")
    assert hub.stalled.wait(60)
    process.kill()
    finish(process)
    hub.go_on.set()
    whole = {path.rpartition("/")[2] for _, path, _ in hub.asked} - {"large.bin"}
    assert "goldens.npz" in whole
    hub.asked.clear()
    found, err = finish(load(hub, tmp_path / "cache", "owner/large"))
    assert found, err
    again = {path.rpartition("/")[2] for _, path, _ in hub.asked}
    assert "large.bin" in again
    assert not whole & again
    assert all(ModelManifest.read(found).read_file(name) for name in ModelManifest.read(found).files)
