"""Weights of torchvision, timm and the Hugging Face hub, from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import torchvision.models
from servers import Page, serve
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models import download, published, weights
from warmstart.models.architecture import Architecture, Input

STATE = {"conv1.weight": torch.arange(12.0).reshape(3, 4), "conv1.bias": torch.ones(3)}
OWN = Input(size=32, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
RESNET18 = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


def saved(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


CONTENT = saved(STATE)
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


def same(checkpoint, expected=STATE):
    assert list(checkpoint.tensors) == list(expected)
    assert all(torch.equal(checkpoint.tensors[name], expected[name]) for name in expected)


@pytest.fixture
def resolve(tmp_path):
    def resolve(name, model="resnet18"):
        architecture = Architecture(model, lambda channels, classes, size: nn.Identity(), {}, OWN)
        return weights.resolve(name, architecture, store=tmp_path / "store")

    return resolve


@pytest.fixture
def offline(tmp_path, monkeypatch):
    folder = tmp_path / "offline"
    folder.mkdir()
    monkeypatch.setenv("WARMSTART_WEIGHTS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """Torch's hub folder and the Hugging Face hub's cache, empty, and nowhere to fetch from."""
    monkeypatch.delenv("WARMSTART_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    redirect(monkeypatch, "http://127.0.0.1:9")  # the port named discard, where nobody listens
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def redirect(monkeypatch, url):
    """Put the addresses of torchvision's ResNet-18 and of the Hugging Face hub below `url`."""
    monkeypatch.setattr(RESNET18.value, "url", f"{url}/models/resnet18-{DIGITS}.pth")
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(monkeypatch):
    with serve() as running:
        redirect(monkeypatch, running.url)
        running.missing = Page(status=404, headers={"X-Error-Code": "EntryNotFound"})
        yield running


def put(server, repository, file, content, revision="main"):
    """Let the server answer for a file as the Hugging Face hub does."""
    headers = {"X-Repo-Commit": "1" * 40, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
    server.pages[f"/{repository}/resolve/{revision}/{file}"] = Page(content, headers=headers)


# --- torchvision


def test_names_of_torchvision_are_known_without_a_download(resolve, monkeypatch):
    monkeypatch.undo()  # the true addresses
    for name in ("IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "DEFAULT"):
        resolved = resolve(name)
        assert resolved.origin == "resnet18:IMAGENET1K_V1"
        assert resolved.digest == "resnet18-f37072fd.pth"
        assert resolved.input == Input(224, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert resolved.classes[:2] == ("tench", "goldfish")
        assert len(resolved.classes) == 1000


@pytest.mark.parametrize(
    ("model", "name", "size"),
    [
        ("regnet_y_16gf", "IMAGENET1K_V2", 224),
        ("regnet_y_16gf", "IMAGENET1K_SWAG_E2E_V1", 384),
        ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", 518),
        ("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1", 224),
        ("inception_v3", "IMAGENET1K_V1", 299),
    ],
)
def test_each_entry_brings_its_own_size(resolve, model, name, size):
    assert resolve(name, model).input.size == size


def test_every_entry_of_torchvision_is_understood(resolve):
    known = 0
    for model in torchvision.models.list_models(module=torchvision.models):
        for name, entry in published.torchvision_entries(model).items():
            resolved = resolve(name, model)
            assert entry.url.endswith(resolved.digest)
            transforms = entry.transforms()
            assert transforms.crop_size == [resolved.input.size]
            assert (resolved.input.mean, resolved.input.std) == (
                tuple(transforms.mean),
                tuple(transforms.std),
            )
            known += 1
    assert known > 100


def test_a_file_of_torchvision_is_fetched_once_into_the_hub_folder(resolve, server, hub):
    server.pages[f"/models/resnet18-{DIGITS}.pth"] = Page(CONTENT, delay_seconds=0.2)
    resolved = resolve("IMAGENET1K_V1")
    with ThreadPoolExecutor(8) as pool:
        for checkpoint in [pool.submit(resolved.read) for _ in range(8)]:
            same(checkpoint.result())
    assert server.fetched.total() == 1
    assert (hub / f"resnet18-{DIGITS}.pth").read_bytes() == CONTENT


def test_a_file_with_another_sum_is_not_kept(resolve, server, hub):
    server.pages[f"/models/resnet18-{DIGITS}.pth"] = Page(saved({"a": torch.ones(1)}))
    with pytest.raises(ConfigError, match=rf"has the SHA-256 sum .*, but {DIGITS} was expected"):
        resolve("IMAGENET1K_V1").read()
    assert [path.suffix for path in hub.iterdir()] == [".lock"]


def test_torchvision_without_a_network(resolve, hub):
    with pytest.raises(ConfigError, match=r"http://127.*/models/resnet18-.*could not be") as error:
        resolve("IMAGENET1K_V1").read()
    assert str(hub) in str(error.value)
    assert "WARMSTART_WEIGHTS" in str(error.value)
    # What the message says helps.
    (hub / f"resnet18-{DIGITS}.pth").write_bytes(CONTENT)
    same(resolve("IMAGENET1K_V1").read())


def test_the_offline_folder_is_looked_at_before_the_hub_folder(resolve, hub, offline):
    (hub / f"resnet18-{DIGITS}.pth").write_bytes(b"not looked at")
    (offline / f"resnet18-{DIGITS}.pth").write_bytes(CONTENT)
    same(resolve("IMAGENET1K_V1").read())


@pytest.mark.parametrize("where", ["hub", "offline"])
def test_a_damaged_file_is_named(resolve, request, offline, where):
    file = request.getfixturevalue(where) / f"resnet18-{DIGITS}.pth"
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(ConfigError, match=rf"{file} is damaged.*{DIGITS}.*delete it and fetch it"):
        resolve("IMAGENET1K_V1").read()


def test_a_hub_folder_that_cannot_be_made_is_said(resolve, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"could not be fetched \(.*file.*WARMSTART_WEIGHTS"):
        resolve("IMAGENET1K_V1").read()


def test_tensors_without_numbers_are_left_out(resolve, offline, monkeypatch):
    """As in the classifier of VGG's IMAGENET1K_FEATURES."""
    entry = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES
    content = saved(
        {"features.0.weight": torch.ones(2), "classifier.0.weight": torch.full((2,), torch.nan)}
    )
    name = f"vgg16_features-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(entry.value, "url", f"https://host.invalid/{name}")
    (offline / name).write_bytes(content)
    resolved = resolve("IMAGENET1K_FEATURES", "vgg16")
    assert resolved.classes is None
    assert list(resolved.read().tensors) == ["features.0.weight"]


def test_the_two_inceptions_of_one_name_are_kept_apart(tmp_path):
    from warmstart.models.timm import timm_model
    from warmstart.models.torchvision import torchvision_model

    theirs, ours = torchvision_model(name="inception_v3"), timm_model(name="inception_v3")
    resolved = weights.resolve("IMAGENET1K_V1", theirs, store=tmp_path)
    assert resolved.input.mean == (0.485, 0.456, 0.406)
    assert weights.resolve("tv_in1k", ours, store=tmp_path).input.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError, match=r"'tv_in1k'.*inception_v3 are IMAGENET1K_V1, DEFAULT;"):
        weights.resolve("tv_in1k", theirs, store=tmp_path)
    with pytest.raises(ConfigError, match=r"'IMAGENET1K_V1'.*inception_v3 are .*tv_in1k"):
        weights.resolve("IMAGENET1K_V1", ours, store=tmp_path)


# --- timm


def test_tags_of_timm_are_known_without_a_download(resolve):
    resolved = resolve("a3_in1k", "resnet50")
    assert resolved.origin == "resnet50.a3_in1k"
    assert resolved.digest == "hf:timm/resnet50.a3_in1k@main"
    assert resolved.input == Input(160, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    # One spelling of the classes, so that they match those of torchvision's weights.
    assert resolved.classes == resolve("IMAGENET1K_V1").classes
    clip = resolve("openai", "vit_base_patch16_clip_224")
    assert clip.input.mean == (0.48145466, 0.4578275, 0.40821073)
    assert clip.classes is None


def test_the_default_tag_is_timms_own(resolve):
    assert resolve("default", "resnet50").origin == "resnet50.a1_in1k"
    assert resolve("default", "resnet50.tv_in1k").origin == "resnet50.tv_in1k"
    assert (
        next(iter(published.timm_tags("convnext_tiny")))
        == timm.get_pretrained_cfg("convnext_tiny").tag
    )
    assert published.timm_tags("small_cnn") == {}


def test_an_unknown_tag_is_refused_with_the_nearest(resolve):
    with pytest.raises(ConfigError, match=r"'a1_in2k'.*resnet50 are .*gluon_in1k.*mean 'a1_in1k'"):
        resolve("a1_in2k", "resnet50")


def test_every_tag_of_timm_is_understood(resolve):
    known = 0
    for name in timm.list_pretrained():
        model, _, tag = name.partition(".")
        resolved = published.timm_weights(timm.get_pretrained_cfg(name))
        assert resolved.origin == f"{model}.{tag}"
        assert len(resolved.input.mean) == len(resolved.input.std) == resolved.input.channels
        known += 1
    assert known > 1000


@pytest.fixture(scope="module")
def tiny():
    """One of timm's test models with numbers of its own, as timm writes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = timm.create_model("test_resnet.r160_in1k").state_dict()
    return state, safetensors.torch.save(state)


def test_a_model_of_timm_is_fetched_from_the_hub_once(resolve, server, tmp_path, tiny):
    state, content = tiny
    put(server, "timm/test_resnet.r160_in1k", "model.safetensors", content)
    before = torch.get_rng_state()
    same(resolve("r160_in1k", "test_resnet").read(), state)
    same(resolve("default", "test_resnet").read(), state)
    assert torch.equal(torch.get_rng_state(), before)
    path = "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert server.fetched[path] == 1  # of what its client may ask beside, nothing is said
    assert (tmp_path / "cache" / "models--timm--test_resnet.r160_in1k").is_dir()


def test_the_older_file_of_the_hub_is_taken_where_there_is_no_other(resolve, server, tiny):
    state, _ = tiny
    put(server, "timm/test_resnet.r160_in1k", "pytorch_model.bin", saved(state))
    same(resolve("r160_in1k", "test_resnet").read(), state)


@pytest.mark.parametrize(
    "name",
    ["test_resnet.r160_in1k.safetensors", "timm/test_resnet.r160_in1k/model.safetensors"],
)
def test_timm_from_the_offline_folder(resolve, server, offline, tiny, name):
    state, content = tiny
    (offline / name).parent.mkdir(parents=True, exist_ok=True)
    (offline / name).write_bytes(content)
    same(resolve("r160_in1k", "test_resnet").read(), state)
    assert not server.fetched


def test_timm_without_a_network(resolve):
    url = "http://127.0.0.1:9/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    message = rf"{re.escape(url)} could not be.*as test_resnet\.r160_in1k\.safetensors into a fold"
    with pytest.raises(ConfigError, match=message):
        resolve("r160_in1k", "test_resnet").read()


def test_names_that_timm_converts_are_converted(resolve, offline):
    """ConvNeXt as its authors published it, in their names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = timm.create_model("test_convnext.r160_in1k").state_dict()
    theirs = {
        r"^stem\.": "downsample_layers.0.",
        r"^stages\.(\d)\.downsample": r"downsample_layers.\1",
        r"\.blocks\.": ".",
        "conv_dw": "dwconv",
        r"mlp\.fc": "pwconv",
        r"^head\.norm": "norm",
        r"^head\.fc": "head",
    }
    original = {}
    for name, tensor in state.items():
        for ours, other in theirs.items():
            name = re.sub(ours, other, name)
        original[name] = tensor
    assert len(set(original) - set(state)) > len(state) / 2
    file = offline / "test_convnext.r160_in1k.safetensors"
    safetensors.torch.save_file(original, file)
    same(resolve("r160_in1k", "test_convnext").read(), state)


def test_weights_of_another_model_are_refused(resolve, offline):
    safetensors.torch.save_file(STATE, offline / "test_resnet.r160_in1k.safetensors")
    with pytest.raises(ConfigError, match=r"does not hold the weights of timm's test_resnet\.r160"):
        resolve("r160_in1k", "test_resnet").read()


# --- the Hugging Face hub


def test_a_file_on_the_hub(resolve, server):
    put(server, "someone/net", "model.safetensors", safetensors.torch.save(STATE))
    resolved = resolve("hf:someone/net")
    assert (resolved.digest, resolved.input) == ("hf:someone/net@main", OWN)
    assert not server.fetched
    assert resolved.read().tensors.keys() == STATE.keys()
    resolve("hf:someone/net").read()
    assert server.fetched["/someone/net/resolve/main/model.safetensors"] == 1


def test_a_named_file_and_revision_on_the_hub(resolve, server):
    put(server, "someone/net", "sub/best.pth", CONTENT, revision="v2")
    resolved = resolve("hf:someone/net/sub/best.pth@v2")
    assert resolved.digest == "hf:someone/net/sub/best.pth@v2"
    same(resolved.read())
    with pytest.raises(ConfigError, match=r"someone/net on the.*has no file other\.pth; name one"):
        resolve("hf:someone/net/other.pth").read()


def test_a_repository_of_timm_brings_timms_preprocessing(resolve, server, tiny):
    state, content = tiny
    put(server, "timm/test_resnet.r160_in1k", "model.safetensors", content, revision="abc")
    resolved = resolve("hf:timm/test_resnet.r160_in1k@abc")
    assert resolved.digest == "hf:timm/test_resnet.r160_in1k@abc"
    assert resolved.input.size == 160
    same(resolved.read(), state)


def test_what_the_hub_does_not_have_is_said(resolve, server):
    with pytest.raises(
        ConfigError, match=r"someone/net .*has no file model\.safetensors or pytorch_model\.bin"
    ):
        resolve("hf:someone/net").read()
    server.missing = Page(status=404, headers={"X-Error-Code": "RepoNotFound"})
    with pytest.raises(ConfigError, match=r"no repository someone/net.*hf auth login"):
        resolve("hf:someone/net").read()


def test_the_hub_without_a_network(resolve, offline):
    url = "http://127.0.0.1:9/someone/net/resolve"
    with pytest.raises(ConfigError, match=rf"{url}/main/model\.safetensors.* as net\.safetensors "):
        resolve("hf:someone/net").read()
    # Two files of one repository must not be taken for each other.
    (offline / "net.bin").write_bytes(CONTENT)
    with pytest.raises(
        ConfigError, match=rf"{url}/v1/a\.bin could not be.* as someone/net/a\.bin "
    ):
        resolve("hf:someone/net/a.bin@v1").read()
    (offline / "someone" / "net").mkdir(parents=True)
    (offline / "someone" / "net" / "a.bin").write_bytes(CONTENT)
    same(resolve("hf:someone/net/a.bin@v1").read())


def test_a_hub_that_does_not_answer_is_given_up(resolve, server, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    put(server, "someone/net", "model.safetensors", b"")
    server.pages["/someone/net/resolve/main/model.safetensors"].delay_seconds = 1
    with pytest.raises(ConfigError, match=r"could not be fetched \(no answer within 0\.2 seconds"):
        resolve("hf:someone/net").read()


@pytest.mark.parametrize("name", ["hf:", "hf:net", "hf:a/b@", "hf:a/b@c@d", "hf:a b/c"])
def test_other_names_for_the_hub_are_refused(resolve, name):
    with pytest.raises(ConfigError, match=rf"'{name}'.*form hf:OWNER/REPOSITORY"):
        resolve(name)


@pytest.mark.parametrize("missing", ["timm", "huggingface_hub"])
def test_without_the_extra_it_is_named(resolve, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "timm":
        assert published.timm_tags("resnet50") == {}
        with pytest.raises(ConfigError, match=r"'a1_in1k'.*warmstart\[timm\]"):
            resolve("a1_in1k", "resnet50")
    else:
        with pytest.raises(ConfigError, match=r"install warmstart\[timm\]"):
            resolve("hf:a/b")
