"""What ``init.weights`` may be: a file, an address with its sum, or a name."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
from servers import Page, serve
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models import download, weights
from warmstart.models.architecture import Architecture, Input

STATE = {"conv1.weight": torch.arange(12.0).reshape(3, 4), "conv1.bias": torch.ones(3)}


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE}, buffer)
    return buffer.getvalue()


def architecture(name="tiny"):
    expected = Input(size=32, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    return Architecture(name, lambda channels, classes, size: nn.Identity(), {}, expected)


CONTENT = saved()
SUM = hashlib.sha256(CONTENT).hexdigest()


def same(checkpoint):
    assert list(checkpoint.tensors) == list(STATE)
    assert all(torch.equal(checkpoint.tensors[name], STATE[name]) for name in STATE)


@pytest.fixture(autouse=True)
def _no_offline_folder(monkeypatch):
    monkeypatch.delenv("WARMSTART_WEIGHTS", raising=False)


@pytest.fixture
def resolve(tmp_path):
    def resolve(name, model="tiny"):
        return weights.resolve(str(name), architecture(model), store=tmp_path / "store")

    return resolve


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", "missing.pth.tar", "a/b"])
def test_a_missing_file_is_named_with_the_other_forms(resolve, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"init\.weights.*no such file") as error:
        resolve(name)
    assert repr(name) in str(error.value)
    forms = ("#sha256=", "hf:OWNER/REPOSITORY", "run:KEY", "source:NAME", "torchvision", "timm")
    assert all(form in str(error.value) for form in forms)


def test_a_folder_is_no_weights_file(resolve, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        resolve(tmp_path)


def test_an_unknown_suffix_is_refused_before_it_is_read(resolve, tmp_path):
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"model\.h5.*'\.h5'.*\.safetensors"):
        resolve(tmp_path / "model.h5")


def test_a_file_without_an_input_takes_the_architectures(resolve, tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(STATE, path)
    resolved = resolve(path)
    assert resolved.input == architecture().input
    assert resolved.classes is None
    assert resolved.origin == "model.safetensors"
    assert resolved.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolved.read().tensors.keys() == STATE.keys()


def test_our_own_files_carry_their_input_and_classes(resolve, tmp_path):
    path = tmp_path / "best.safetensors"
    # A view that is not contiguous, and a parameter with a gradient: what a model may hold.
    state = {**STATE, "t.weight": torch.arange(6.0).reshape(2, 3).t().requires_grad_()}
    expected = Input(size=8, channels=1, mean=(0.31,), std=(0.37,))
    weights.save(path, state, expected, ["cat", "dog"])

    resolved = resolve(path)
    assert resolved.input == expected
    assert resolved.classes == ("cat", "dog")
    assert weights.metadata(path) == (expected, ("cat", "dog"))
    assert torch.equal(resolved.read().tensors["t.weight"], state["t.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_the_home_folder_is_expanded(resolve, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.pt").write_bytes(CONTENT)
    same(resolve("~/model.pt").read())


def test_an_unknown_name_is_refused_with_the_nearest(resolve):
    with pytest.raises(ConfigError, match=r"'IMAGENET1K_V3'.*resnet18 are IMAGENET1K_V1.*mean 'IM"):
        resolve("IMAGENET1K_V3", "resnet18")
    with pytest.raises(
        ConfigError, match=r"publishes weights for tiny.*a file.*run:KEY, source:NAME"
    ):
        resolve("IMAGENET1K_V1")


@pytest.mark.parametrize("fragment", ["sha256={}", "{}", "sha256:{}"])
def test_a_file_is_fetched_from_its_address_once(resolve, server, tmp_path, fragment):
    server.pages["/models/net.pth?download=1"] = Page(CONTENT)
    url = f"{server.url}/models/net.pth?download=1"
    resolved = resolve(f"{url}#{fragment.format(SUM.upper())}")
    assert (resolved.origin, resolved.digest) == (url, SUM)
    assert (resolved.input, resolved.classes) == (architecture().input, None)
    assert not server.fetched  # nothing before it is read
    assert not (tmp_path / "store").exists()

    same(resolved.read())
    same(resolve(f"{url}#{SUM}").read())
    # The same file at another address, under another name.
    same(resolve(f"https://elsewhere.invalid/other.pt#{SUM}").read())
    assert server.fetched.total() == 1


def test_eight_that_ask_at_once_fetch_once(resolve, server):
    server.pages["/net.pth"] = Page(CONTENT, delay_seconds=0.2)
    resolved = resolve(f"{server.url}/net.pth#{SUM}")
    with ThreadPoolExecutor(8) as pool:
        for checkpoint in [pool.submit(resolved.read) for _ in range(8)]:
            same(checkpoint.result())
    assert server.fetched.total() == 1


def left_over(tmp_path):
    """Return the files in the store, without the empty ones that are locked."""
    return [path for path in (tmp_path / "store").rglob("*") if path.suffix != ".lock"]


def test_another_sum_is_refused(resolve, server, tmp_path):
    server.pages["/net.pth"] = Page(CONTENT)
    with pytest.raises(ConfigError, match=rf"net\.pth has the SHA-256 sum {SUM}, but 0{{64}} was"):
        resolve(f"{server.url}/net.pth#{'0' * 64}").read()
    assert not left_over(tmp_path)


def test_an_address_without_a_sum_is_refused_with_how_to_add_it(resolve):
    for name in (
        "https://host/net.pth",
        "https://host/net.pth#sha256=12ab",
        "http://host/net.pth#",
    ):
        with pytest.raises(
            ConfigError, match=r"without the SHA-256.*net\.pth#sha256=SUM.*sha256su"
        ):
            resolve(name)


@pytest.mark.parametrize("name", ["file:///net.pth", "ftp://host/net.pth", "s3://bucket/net.pth"])
def test_other_protocols_are_refused(resolve, name):
    with pytest.raises(ConfigError, match=rf"{name}.*http\(s\).*a file"):
        resolve(f"{name}#{SUM}")


def test_an_address_of_no_weights_file_is_refused(resolve):
    with pytest.raises(ConfigError, match=r"'page\.html'.*'\.html'"):
        resolve(f"https://host/page.html#{SUM}")


def test_a_file_that_is_not_there_is_said(resolve, server, tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.pth does not exist.*404.*check the address"):
        resolve(f"{server.url}/gone.pth#{SUM}").read()
    assert not left_over(tmp_path)


def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_a_network_the_file_and_its_place_are_named(resolve, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{unused_port()}/a/net.pth"
    message = rf"{re.escape(url)} could not be fetched.*refused.*put it as net\.pth into "
    with pytest.raises(ConfigError, match=rf"{message}a folder that.*WARMSTART_WEIGHTS names"):
        resolve(f"{url}#{SUM}").read()
    offline = tmp_path / "offline"
    offline.mkdir()
    monkeypatch.setenv("WARMSTART_WEIGHTS", str(offline))
    with pytest.raises(ConfigError, match=message + re.escape(str(offline))):
        resolve(f"{url}#{SUM}").read()
    # What the message says helps.
    (offline / "net.pth").write_bytes(CONTENT)
    same(resolve(f"{url}#{SUM}").read())


def test_a_server_that_does_not_answer_is_given_up(resolve, server, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    server.pages["/net.pth"] = Page(CONTENT, delay_seconds=2)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"net\.pth could not be fetched \(.*put it as"):
        resolve(f"{server.url}/net.pth#{SUM}").read()
    assert time.monotonic() - start < 1.5


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 seconds"):
        download.within(lambda: time.sleep(1))


@pytest.mark.parametrize("status", [403, 500, 503])
def test_an_error_of_the_server_is_passed_on(resolve, server, status):
    server.pages["/net.pth"] = Page(status=status)
    with pytest.raises(
        ConfigError, match=rf"could not be fetched \(HTTP Error {status}.*put it as"
    ):
        resolve(f"{server.url}/net.pth#{SUM}").read()


def test_a_connection_that_breaks_leaves_nothing(resolve, server, tmp_path):
    broken = Page(CONTENT[:100], headers={"Content-Length": str(len(CONTENT))})
    server.pages["/net.pth"] = broken
    with pytest.raises(ConfigError, match=rf"ended after 100 of {len(CONTENT)} bytes"):
        resolve(f"{server.url}/net.pth#{SUM}").read()
    assert not left_over(tmp_path)
    server.pages["/net.pth"] = Page(CONTENT)
    same(resolve(f"{server.url}/net.pth#{SUM}").read())


def test_the_offline_folder_is_looked_at_first(resolve, server, tmp_path, monkeypatch):
    server.pages["/net.pth"] = Page(CONTENT)
    monkeypatch.setenv("WARMSTART_WEIGHTS", str(tmp_path))
    (tmp_path / "net.pth").write_bytes(CONTENT)
    same(resolve(f"{server.url}/net.pth#{SUM}").read())
    assert not server.fetched
    (tmp_path / "net.pth").write_bytes(CONTENT[:-1] + b"\0\0")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/net\.pth is damaged.*{SUM}.*delete it"):
        resolve(f"{server.url}/net.pth#{SUM}").read()


def test_an_offline_folder_that_is_not_there_is_an_error(resolve, tmp_path, monkeypatch):
    (tmp_path / "model.pt").write_bytes(CONTENT)
    monkeypatch.setenv("WARMSTART_WEIGHTS", str(tmp_path / "typo"))
    with pytest.raises(ConfigError, match=r"WARMSTART_WEIGHTS is '.*typo'.*no such folder"):
        resolve(tmp_path / "model.pt")
