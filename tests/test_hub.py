"""The zoo and the Hub: the unmodified client against a Hub on this machine."""

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants, scan_cache_dir
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import zoo
from zoo import catalog, folder, hub_errors
from zoo import hub as zoo_hub
from zoo.card import card, described, refreshed
from zoo.errors import RequestError
from zoo.folder import FolderError
from zoo.hub import HubError

# The client's own, of the library it speaks HTTP with.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ARGUMENTS = {"channels": 4, "layers": 1, "image_shape": [1, 5, 5], "num_classes": 3}
REF = "hf-hub:ada/digits"
RESULT = {
    "dataset": "mnist",
    "split": "test",
    "protocol": "threshold",
    "images": 100,
    "nats_per_image": 60.5,
    "nats_std_error": 0.5,
    "bits_per_dim": 0.1,
}


def make(path, channels=4, **config):
    torch.manual_seed(channels)
    arguments = ARGUMENTS | {"channels": channels}
    path.mkdir(exist_ok=True)
    described = {"name": "digits", "architecture": "pixelcnn", "model_args": arguments, "conditional": True}
    described |= {"num_classes": 3, "dataset": "mnist", "results": [RESULT]}
    config = folder.save(zoo.create("pixelcnn", **arguments), path, described | config)
    (path / "recipe.yaml").write_text("name: digits\n")
    (path / "README.md").write_text(card(config, "name: digits\n"))
    return path


@pytest.fixture
def model(tmp_path):
    return make(tmp_path / "model")


@pytest.fixture
def pushed(hub, model):
    return zoo.push(model, "ada/digits", tag="v1")


def log_prob(reference):
    return zoo.load(reference).log_prob(torch.ones(3, 1, 5, 5), [0, 1, 2])


def cached_blob(name):
    (path,) = Path(constants.HF_HUB_CACHE).glob(f"models--ada--digits/snapshots/*/{name}")
    return path.resolve()


# What comes back is what was pushed.


def test_a_trained_model_comes_back_bit_for_bit_in_a_fresh_process(hub, zoo_command, tmp_path):
    trained = json.loads(zoo_command("train", "smoke", "--output", tmp_path / "run", "--json").stdout)
    pushed = json.loads(zoo_command("push", tmp_path / "run", "ada/smoke", "--tag", "v1", "--json").stdout)
    assert set(pushed) >= {"repo", "revision", "files", "sha256"}
    assert set(pushed["files"]) >= {"config.json", "model.safetensors", "README.md", "recipe.yaml", "samples.png"}
    script = (
        "import sys, torch, zoo; m = zoo.load(sys.argv[1]); x = (torch.rand(4, *m.image_shape, "
        "generator=torch.Generator().manual_seed(0)) > 0.5).float(); "
        "print(m.log_prob(x, None if m.num_classes is None else [0, 1, 2, 3]).tolist())"
    )

    def answer(reference, **environment):
        run = [sys.executable, "-c", script, str(reference)]
        done = subprocess.run(run, capture_output=True, text=True, env=os.environ | environment, check=True)
        return done.stdout

    here = answer(tmp_path / "run")
    assert trained["test"]["nats_per_image"] > 0
    for reference in ("hf-hub:ada/smoke", "hf-hub:ada/smoke@v1", f"hf-hub:ada/smoke@{pushed['revision']}"):
        assert answer(reference, HF_HUB_CACHE=str(tmp_path / f"cache{len(reference)}")) == here
    assert answer("hf-hub:ada/smoke@v1") == answer("hf-hub:ada/smoke") == here
    hub.requests.clear()
    for reference in ("hf-hub:ada/smoke", "hf-hub:ada/smoke@v1", f"hf-hub:ada/smoke@{pushed['revision']}"):
        assert answer(reference, HF_HUB_OFFLINE="1") == here
    assert hub.requests == []


def test_a_pushed_repository_opens_with_plain_tools(pushed, model, tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("hf"), "download", "ada/digits", "--local-dir", tmp_path / "plain"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with safe_open(tmp_path / "plain/model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(
            file.get_tensor("net.1.conv.0.bias"), load_file(model / "model.safetensors")["net.1.conv.0.bias"]
        )
    loaded = ModelCard.load("ada/digits")
    assert loaded.data.license == "apache-2.0"
    assert loaded.data.library_name == "pixelzoo"
    assert loaded.data.pipeline_tag == "unconditional-image-generation"
    assert loaded.data.datasets == ["mnist"]
    assert {(r.metric_type, r.metric_value, r.dataset_split, r.dataset_config) for r in loaded.data.eval_results} == {
        ("nats_per_image", 60.5, "test", "threshold"),
        ("bits_per_dim", 0.1, "test", "threshold"),
    }
    assert f'zoo.load("{REF}")' in loaded.text


def test_a_push_is_one_commit_and_pushing_again_is_none(hub, pushed, model):
    repo = hub.repos["ada/digits"]
    assert len(repo.commits) == 2
    assert repo.tags == {"v1": pushed.revision}
    assert set(repo.head().files) == {
        ".gitattributes",
        "config.json",
        "model.safetensors",
        "README.md",
        "recipe.yaml",
    }
    again = zoo.push(model, "ada/digits", tag="v1")
    assert again == pushed
    assert len(repo.commits) == 2


def test_a_branch_a_message_and_a_private_repository(hub, model, monkeypatch):
    done = zoo.push(model, "ada/mine", private=True, revision="dev/x", message="Try it")
    repo = hub.repos["ada/mine"]
    assert repo.private
    assert repo.commits[repo.branches["dev/x"]].message == "Try it"
    assert set(repo.head().files) == {".gitattributes"}
    assert zoo.pull("hf-hub:ada/mine@dev/x").revision == done.revision
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(RequestError, match=r"no repository ada/mine .*, or a private one"):
        zoo.pull("hf-hub:ada/mine@other")


def test_big_weights_travel_in_parts(hub, tmp_path):
    zoo.push(make(tmp_path / "big", channels=400), "ada/digits")
    parts = [line for line in hub.requests if line.startswith("PUT /part/")]
    assert len(parts) >= 2
    assert torch.equal(log_prob(REF), log_prob(tmp_path / "big"))


def test_all_files_come_from_one_commit(hub, pushed, tmp_path):
    first = log_prob(REF)
    other = zoo.push(make(tmp_path / "other", channels=5), "ada/digits")
    assert not torch.equal(log_prob(REF), first)
    assert torch.equal(log_prob(f"{REF}@v1"), first)
    assert torch.equal(log_prob(f"{REF}@{pushed.revision}"), first)
    assert zoo.pull(REF).revision == other.revision != pushed.revision


def test_what_a_commit_holds_is_asked_for_once(hub, pushed):
    reference = f"{REF}@{pushed.revision}"
    first = log_prob(reference)
    hub.requests.clear()
    assert torch.equal(log_prob(reference), first)
    assert hub.requests == []


def test_a_name_of_the_zoo_may_point_to_a_pinned_commit(hub, pushed, model, monkeypatch, tmp_path):
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "named/far").mkdir(parents=True)
    entry = tmp_path / "named/far/config.json"
    entry.write_text(json.dumps(config | {"hub": {"repo": "ada/digits", "commit": pushed.revision}}))
    monkeypatch.setattr(catalog, "NAMED", tmp_path / "named")
    hub.requests.clear()
    assert "far" in zoo.list_models()
    assert catalog.where("far") == "hub"
    assert zoo.create("far").num_classes == 3
    assert hub.requests == []
    assert torch.equal(log_prob("far"), log_prob(model))
    forged = config | {"hub": {"repo": "ada/digits", "commit": pushed.revision}, "weights": {"sha256": "0" * 64}}
    entry.write_text(json.dumps(forged))
    with pytest.raises(FolderError, match="not what this zoo pinned"):
        zoo.load("far")


# Nothing is trusted.


def test_a_flipped_byte_in_the_cache_is_healed(pushed, model):
    expected = log_prob(REF)
    for name in ("model.safetensors", "config.json"):
        blob = cached_blob(name)
        data = blob.read_bytes()
        blob.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        assert torch.equal(log_prob(REF), expected)
        assert blob.read_bytes() == data


def test_a_truncated_blob_in_the_cache_is_healed_or_refused(hub, pushed):
    expected = log_prob(REF)
    blob = cached_blob("model.safetensors")
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(log_prob(f"{REF}@{pushed.revision}"), expected)
    blob.write_bytes(whole[: len(whole) // 2])
    with hub.down(), pytest.raises(FolderError, match=r"damaged .* cannot be downloaded again: no connection to"):
        zoo.load(f"{REF}@{pushed.revision}")


def test_bytes_that_arrive_wrong_are_fetched_once_more_and_then_refused(hub, pushed, model):
    hub.fault("GET /whole/*", "flip")
    assert torch.equal(log_prob(REF), log_prob(model))
    cached_blob("model.safetensors").unlink()
    for path in Path(constants.HF_HUB_CACHE).glob("models--ada--digits/snapshots/*/model.safetensors"):
        path.unlink()
    hub.fault("GET /whole/*", "flip", times=2)
    with pytest.raises(FolderError, match=r"model.safetensors arrives damaged, twice"):
        zoo.load(REF)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch /tmp/zoo-was-here",))


def test_a_pickle_is_never_opened(hub, pushed, tmp_path):
    hub.put("ada/digits", {"pytorch_model.bin": pickle.dumps(Bomb()), "model.pt": pickle.dumps(Bomb())})
    hub.requests.clear()
    assert zoo.pull(REF).files == ["config.json", "model.safetensors", "README.md", "recipe.yaml"]
    assert not any(name in line for line in hub.requests for name in (".bin", ".pt"))
    hub.put("ada/theirs", {"pytorch_model.bin": pickle.dumps(Bomb()), "config.json": b"{}"})
    with pytest.raises(FolderError, match=r"model.safetensors missing; it holds .*pytorch_model.bin.* never opened"):
        zoo.load("hf-hub:ada/theirs")
    hub.put("ada/pickled", {"model.safetensors": pickle.dumps(Bomb()), "config.json": b"{}"})
    with pytest.raises(FolderError, match="not a zoo config: format: Field required"):
        zoo.load("hf-hub:ada/pickled")
    assert not Path("/tmp/zoo-was-here").exists()


def test_a_strangers_repository_is_refused_with_what_is_missing(hub, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    weights = (tmp_path / "a.safetensors").read_bytes()
    hub.put("ada/timm", {"model.safetensors": weights})
    with pytest.raises(
        FolderError, match=r"is no model folder of the zoo: config.json missing; it holds .gitattributes"
    ):
        zoo.load("hf-hub:ada/timm")
    hub.put("ada/timm", {"config.json": b'{"architecture": "resnet50", "num_classes": 10}'})
    with pytest.raises(FolderError, match=r"format: Field required; name: .*; model_args: .*; weights: Field required"):
        zoo.load("hf-hub:ada/timm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet50"}, "no model is named 'resnet50'"),
        ({"architecture": "../../evil"}, "no model is named '../../evil'"),
        ({"architecture": "os:system"}, "no model is named 'os:system'"),
        ({"model_args": ARGUMENTS | {"channels": 10**9}}, "overflow"),
        ({"model_args": ARGUMENTS | {"channels": 10**5}}, "has shape"),
        ({"model_args": ARGUMENTS | {"layers": 10**9}}, "less than or equal to 1000"),
        ({"model_args": ARGUMENTS | {"channels": "4"}}, "channels: Input should be a valid integer"),
        ({"model_args": ARGUMENTS | {"block": {"name": "os:system"}}}, "no layer is named 'os:system'"),
        ({"format": 99}, "has format 99, this zoo reads 1: pip install -U pixelzoo"),
        (
            {"plugins": [{"name": "zoo-waves"}, {"name": "; rm -rf /"}], "architecture": "wave"},
            "pip install zoo-waves$",
        ),
    ],
    ids=str,
)
def test_a_hostile_config_is_refused_before_memory_is_taken(hub, pushed, model, changes, message):
    config = json.loads((model / "config.json").read_text()) | changes
    hub.put("ada/digits", {"config.json": json.dumps(config).encode()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FolderError, match=message):
        zoo.load(REF)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_weights_named_elsewhere_are_not_followed(hub, pushed, model):
    config = json.loads((model / "config.json").read_text())
    config["weights"]["file"] = "../../../../etc/passwd"
    hub.put("ada/digits", {"config.json": json.dumps(config).encode()})
    assert torch.equal(log_prob(REF), log_prob(model))


def test_a_config_too_big_to_be_one_is_not_fetched(hub, pushed):
    hub.put("ada/digits", {"config.json": b" " * 2**21})
    hub.requests.clear()
    with pytest.raises(FolderError, match="2,097,152 bytes, more than any config"):
        zoo.load(REF)
    assert not any("resolve" in line for line in hub.requests)


def test_a_strangers_weights_are_not_fetched_to_be_refused(hub, pushed, model):
    config = json.loads((model / "config.json").read_text())
    hub.put("ada/llama", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"0" * 9000})
    other = config | {"model_args": ARGUMENTS | {"channels": 5}}
    hub.put("ada/other", {"config.json": json.dumps(other).encode(), "model.safetensors": b"0" * 100})
    hub.requests.clear()
    with pytest.raises(FolderError, match="not a zoo config"):
        zoo.load("hf-hub:ada/llama")
    with pytest.raises(FolderError, match=r"has 100 bytes, where the model of its config.json has .*; not fetched"):
        zoo.load("hf-hub:ada/other")
    assert not any("safetensors" in line or "whole" in line for line in hub.requests)


@pytest.mark.parametrize("dilation", [10**9, 1.5, "2"])
def test_the_arguments_of_a_block_are_checked_too(hub, pushed, model, dilation):
    block = {"name": "residual-block", "dilation": dilation}
    config = json.loads((model / "config.json").read_text()) | {"model_args": ARGUMENTS | {"block": block}}
    hub.put("ada/digits", {"config.json": json.dumps(config).encode()})
    with pytest.raises(
        FolderError, match=r"layer 'residual-block' in 'block' of the model 'pixelcnn': dilation: Input"
    ):
        zoo.load(REF)


def test_fresh_weights_of_a_strangers_config_are_checked_first(hub, pushed, model):
    for channels, message in ((3000, "cannot be built|where the model"), ("4", "valid integer"), (10**9, "overflow")):
        config = json.loads((model / "config.json").read_text()) | {"model_args": ARGUMENTS | {"channels": channels}}
        hub.put("ada/digits", {"config.json": json.dumps(config).encode()})
        with pytest.raises(FolderError, match=message):
            zoo.create(REF)


def test_an_extra_file_too_big_to_be_one_is_left_out(hub, pushed):
    hub.put("ada/digits", {"README.md": b" " * (2**24 + 1)})
    with pytest.warns(UserWarning, match="README.md of ada/digits has 16,777,217 bytes and is left out"):
        assert "README.md" not in zoo.pull(REF).files


def test_a_cache_without_links_heals_too(hub, pushed, model, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    monkeypatch.setattr(huggingface_hub.file_download, "are_symlinks_supported", lambda cache_dir=None: False)
    hub.fault("GET /whole/*", "flip")
    assert torch.equal(log_prob(REF), log_prob(model))
    (weights,) = Path(constants.HF_HUB_CACHE).glob("models--ada--digits/snapshots/*/model.safetensors")
    assert not weights.is_symlink()
    for name in ("model.safetensors", "config.json"):
        path = weights.with_name(name)
        path.write_bytes(path.read_bytes()[:-9])
        assert torch.equal(log_prob(f"{REF}@{pushed.revision}"), log_prob(model))


# What people meet.


def test_no_network(hub, model):
    with hub.down():
        with pytest.raises(HubError, match=r"no connection to http.* check the network and try again"):
            zoo.load(REF)
        with pytest.raises(HubError, match=r"no connection to http.* push again"):
            zoo.push(model, "ada/digits")


def test_offline_mode_with_and_without_the_cache(hub, pushed, zoo_command, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = zoo_command("pull", REF)
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE=1 forbids to ask for it; pull it once with the network" in done.stderr
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert zoo_command("pull", REF).returncode == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    done = zoo_command("pull", REF, "--json")
    assert json.loads(done.stdout)["revision"] == pushed.revision
    assert done.stderr == ""
    assert hub.requests == []


def test_a_wrong_token_even_on_a_public_repository(pushed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(
        HubError, match=r"refuses your token \(of the environment variable HF_TOKEN\).* even for public"
    ):
        zoo.load(REF)


@pytest.mark.parametrize("trouble", ["down", "token", 503])
def test_a_stale_cache_is_used_and_named(hub, pushed, monkeypatch, trouble, tmp_path):
    expected = log_prob(REF)
    zoo.push(make(tmp_path / "newer", channels=5), "ada/digits")
    if trouble == "token":
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
    else:
        hub.fault("*", "drop" if trouble == "down" else trouble, times=100)
    with pytest.warns(
        UserWarning, match=rf"using commit {pushed.revision} of ada/digits from the cache, .* outdated: "
    ):
        assert torch.equal(log_prob(REF), expected)


def test_a_pull_that_is_cut_leaves_the_older_commit_usable(hub, pushed, tmp_path):
    expected = log_prob(REF)
    zoo.push(make(tmp_path / "newer", channels=5), "ada/digits")
    hub.fault("GET /whole/*", 404, times=100)
    with pytest.raises(HubError):
        zoo.load(REF)
    with hub.down(), pytest.warns(UserWarning, match=f"using commit {pushed.revision}"):
        assert torch.equal(log_prob(REF), expected)


def test_a_missing_repository_revision_and_file(hub, pushed):
    with pytest.raises(RequestError, match=r"no repository ada/nothing on .*check the name"):
        zoo.load("hf-hub:ada/nothing")
    with pytest.raises(RequestError, match=r"no branch, tag or commit 'v2'; its branches and tags: main, v1"):
        zoo.load(f"{REF}@v2")
    with pytest.raises(RequestError, match=r"no branch, tag or commit"):
        zoo.load(f"{REF}@{'0' * 40}")
    hub.put("ada/half", {"config.json": b"{}"})
    with pytest.raises(FolderError, match=r"model.safetensors missing"):
        zoo.load("hf-hub:ada/half")


@pytest.mark.parametrize(
    "reference", ["hf-hub:", "hf-hub:digits", "hf-hub:a/b/c", "hf-hub:../..", "hf-hub:a/b@", REF + " "]
)
def test_a_reference_that_is_none(hub, reference):
    with pytest.raises(RequestError, match=r"no repository of the Hub"):
        zoo.load(reference)
    assert hub.requests == []


def test_a_path_like_name_is_told_how_to_write_a_repository():
    with pytest.raises(RequestError, match=r"a repository of the Hub is written hf-hub:ada/digits"):
        zoo.load("ada/digits")


def test_a_private_and_a_gated_repository(hub, model, monkeypatch):
    zoo.push(model, "ada/digits", private=True)
    hub.repo("ada/gated", gated=True)
    hub.put("ada/gated", {name: (model / name).read_bytes() for name in ("config.json", "model.safetensors")})
    assert zoo.load("hf-hub:ada/gated").num_classes == 3
    for token in ("hf_other", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", f"{constants.HF_HUB_CACHE}-{token}")
        with pytest.raises(RequestError, match=r"ada/digits.* or a private one.*hf auth login"):
            zoo.load(REF)
        with pytest.raises(RequestError, match=r"ada/gated is gated: ask for access at http.*/ada/gated, then hf auth"):
            zoo.load("hf-hub:ada/gated")


def test_a_push_without_the_right_to(hub, pushed, model, monkeypatch):
    make(model, channels=5)
    for token, message in (
        ("hf_reader", r"does not let you write to ada/digits \(it says: Forbidden.*\); if your token .*only reads"),
        ("hf_other", r"does not let you write to ada/digits"),
        ("hf_expired", r"refuses your token"),
        ("", r"wants to know who you are: hf auth login"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=message):
            zoo.push(model, "ada/digits")
    assert len(hub.repos["ada/digits"].commits) == 2


def test_names_that_are_taken(hub, pushed, model, tmp_path):
    hub.put("ada/llama", {"config.json": b'{"model_type": "llama"}', "pytorch_model.bin": b"..."})
    with pytest.raises(RequestError, match=r"the name ada/llama is taken: it holds .*pytorch_model.bin"):
        zoo.push(model, "ada/llama")
    with pytest.raises(RequestError, match=r"has a tag 'v1' already, of commit .*; name another"):
        zoo.push(make(tmp_path / "newer", channels=5), "ada/digits", tag="v1")
    with pytest.raises(RequestError, match=r"exists and is public"):
        zoo.push(model, "ada/digits", private=True)
    assert len(hub.repos["ada/llama"].commits) == 2
    assert len(hub.repos["ada/digits"].commits) == 2


def test_a_server_error(hub, pushed, model):
    hub.fault("GET /api/models/*", 500)
    with pytest.raises(HubError, match=r"fails \(500\); it is not your fault, try again later"):
        zoo.load(REF)
    hub.fault("GET /api/models/*", 429)
    with pytest.raises(HubError, match="too many requests"):
        zoo.load(REF)
    hub.fault("POST /api/models/*/commit/*", 500, times=100)
    with pytest.raises(HubError, match=r"fails \(500\)"):
        zoo.push(make(model, channels=5), "ada/digits")


def test_a_connection_that_is_cut_is_taken_up_again(hub, pushed, model, monkeypatch):
    hub.fault("GET /whole/*", "cut")
    assert torch.equal(log_prob(REF), log_prob(model))


def test_a_connection_that_is_cut_for_good(hub, pushed, model, monkeypatch):
    hub.fault("GET /whole/*", "drop", times=10**6)
    with pytest.raises(HubError, match=r"no connection to .*, or it broke off .*; check the network and try again"):
        zoo.load(REF)
    # What had come whole before is not asked for again.
    hub.faults.clear()
    assert torch.equal(log_prob(REF), log_prob(model))


@pytest.mark.parametrize(
    "place",
    ["PUT /whole/*", "POST */lfs/objects/batch", "POST */preupload/*", "POST */commit/*", "POST */tag/*"],
)
def test_an_interrupted_push_leaves_nothing_half_written_and_goes_on(hub, model, place):
    hub.fault(place, 400)
    with pytest.raises(HubError):
        zoo.push(model, "ada/digits", tag="v1")
    repo = hub.repos["ada/digits"]
    whole = {".gitattributes", "config.json", "model.safetensors", "README.md", "recipe.yaml"}
    assert set(repo.head().files) == (whole if "tag" in place else {".gitattributes"})
    assert repo.tags == {}
    done = zoo.push(model, "ada/digits", tag="v1")
    assert set(repo.head().files) == whole
    assert repo.tags == {"v1": done.revision}
    assert len(repo.commits) == 2


def test_a_push_killed_halfway(hub, model, zoo_command, tmp_path):
    # The server never answers to the upload; the process dies there.
    script = (
        "import os, threading, time, sys, zoo\n"
        "def die(): time.sleep(float(sys.argv[3])); os.kill(os.getpid(), 9)\n"
        "threading.Thread(target=die, daemon=True).start()\n"
        "zoo.push(sys.argv[1], sys.argv[2])\n"
    )
    hub.fault("PUT /whole/*", "drop", times=10**6)
    done = subprocess.run([sys.executable, "-c", script, model, "ada/digits", "6"], capture_output=True, check=False)
    assert done.returncode == -9
    assert set(hub.repos["ada/digits"].head().files) == {".gitattributes"}
    hub.faults.clear()
    zoo.push(model, "ada/digits")
    assert torch.equal(log_prob(REF), log_prob(model))


def test_somebody_pushed_at_the_same_time(hub, pushed, model):
    hub.fault("POST */commit/*", 412)
    with pytest.raises(HubError, match=r"somebody pushed to ada/digits at the same time; push again"):
        zoo.push(make(model, channels=5), "ada/digits")


def test_a_full_disk(hub, tmp_path):
    zoo.push(make(tmp_path / "bigger", channels=40), "ada/digits")
    # Files may have 4 kB, as if no more fitted.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import zoo.hub, torch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "from zoo.cli import main; sys.argv[1:] = ['pull', 'hf-hub:ada/digits']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"Error: no space left on the disk of the cache, .*hub-cache; HF_HOME names another", done.stderr)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(HubError, match="no space left"), hub_errors.explained("ada/digits", None):
        os.write(full, b"x")
    os.close(full)


def test_a_cache_that_cannot_be_written(pushed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/sys/zoo")
    with pytest.raises(HubError, match=r"/sys/zoo cannot be written; HF_HOME names another place for the cache"):
        zoo.load(REF)


def test_what_a_wrong_token_is_told_where_it_hides_repositories(hub, pushed, monkeypatch):
    # So do addresses of the real Hub: 401 and "not found".
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    hub.fault("GET /api/models/*", 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
    with pytest.raises(HubError, match="refuses your token"):
        zoo.load(REF)


def test_a_proxys_login_page_is_no_hub(hub, pushed):
    hub.fault("GET /api/models/*", 200)
    with pytest.raises(HubError, match=r"is there a proxy or a login page between"):
        zoo.load(REF)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Data processing error: CAS service error"), r"transfer failed \(Data .*HF_HUB_DISABLE_XET=1"),
        (RuntimeError("IO Error: No space left on device"), "no space left on the disk"),
        (OSError("Consistency check failed: file should be of size 5"), r"transfer failed \(Consistency"),
    ],
    ids=str,
)
def test_errors_of_the_client_that_have_no_type(error, message):
    with pytest.raises(HubError, match=message), hub_errors.explained("ada/digits", None):
        raise error


def test_offline_messages_fit_what_was_asked_for(monkeypatch, model):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for ask in (lambda: zoo.push(model, "ada/digits"), zoo_hub.browse):
        with pytest.raises(HubError, match=r"^HF_HUB_OFFLINE=1 forbids to ask the Hub; unset it and try again$"):
            ask()


@pytest.mark.parametrize(
    ("options", "message"), [({"tag": "a b"}, "--tag is 'a b'"), ({"revision": "v1"}, "has a tag 'v1'")]
)
def test_refs_that_cannot_be(hub, pushed, model, options, message):
    with pytest.raises(RequestError, match=message):
        zoo.push(model, "ada/digits", **options)
    assert len(hub.repos["ada/digits"].commits) == 2


def test_files_of_older_weights_do_not_stay(hub, pushed, model):
    (model / "recipe.yaml").unlink()
    zoo.push(model, "ada/digits")
    assert "recipe.yaml" not in hub.repos["ada/digits"].head().files


def test_a_damaged_folder_is_not_pushed(hub, model):
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(FolderError, match="damaged"):
        zoo.push(model, "ada/digits")
    assert hub.requests == []


@pytest.mark.parametrize("repo", ["digits", "a/b/c", "hf-hub:ada/digits", "ada/di gits"])
def test_a_repository_name_that_is_none(hub, model, repo):
    with pytest.raises(RequestError, match="no repository of the Hub"):
        zoo.push(model, repo)
    assert hub.requests == []


# The card.


def test_a_card_edited_on_the_hub_keeps_its_words_and_gets_new_figures(hub, pushed, tmp_path):
    text = hub.repos["ada/digits"].head().files["README.md"].data.decode()
    edited = text.replace("## Use and limits", "## Thanks\n\nTo Lovelace.\n\n## Use and limits")
    edited = edited.replace("license: apache-2.0", "license: mit\nlanguage: en").replace("- likelihood\n", "- mine\n")
    hub.put("ada/digits", {"README.md": edited.encode()})
    newer = make(tmp_path / "newer", channels=5, results=[RESULT | {"nats_per_image": 55.5}])
    zoo.push(newer, "ada/digits")
    loaded = ModelCard.load("ada/digits")
    assert "To Lovelace." in loaded.text
    assert "55.50" in loaded.text
    assert "60.50" not in loaded.text
    assert (loaded.data.license, loaded.data.language) == ("mit", "en")
    assert set(loaded.data.tags) >= {"mine", "pixelzoo", "likelihood"}
    assert {result.metric_value for result in loaded.data.eval_results} == {55.5, 0.1}
    # A fresh folder's card does not undo it, however often.
    zoo.push(make(tmp_path / "newest", channels=6), "ada/digits")
    assert "To Lovelace." in ModelCard.load("ada/digits").text


def test_a_card_edited_here_is_pushed_and_may_be_edited_again(hub, pushed, model):
    for word in ("first", "second"):
        path = model / "README.md"
        path.write_text(path.read_text().replace("## Citation", f"A {word} thought.\n\n## Citation"))
        zoo.push(model, "ada/digits")
        assert f"A {word} thought." in ModelCard.load("ada/digits").text


def test_a_card_edited_on_both_sides_is_nobodys_to_decide(hub, pushed, model):
    text = hub.repos["ada/digits"].head().files["README.md"].data.decode()
    hub.put("ada/digits", {"README.md": (text + "\nTheirs.\n").encode()})
    (model / "README.md").write_text((model / "README.md").read_text() + "\nMine.\n")
    with pytest.raises(RequestError, match=r"README.md was edited here and on the Hub"):
        zoo.push(model, "ada/digits")
    (model / "README.md").unlink()
    zoo.push(model, "ada/digits")
    assert "Theirs." in ModelCard.load("ada/digits").text


def test_words_pushed_from_elsewhere_are_not_lost(hub, pushed, model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    for place, words in ((model, "From here."), (other, "From there.")):
        (place / "README.md").write_text((place / "README.md").read_text().replace("## Cit", f"{words}\n\n## Cit"))
    zoo.push(model, "ada/digits")
    with pytest.raises(RequestError, match=r"README.md was edited here and on the Hub"):
        zoo.push(other, "ada/digits")
    # Nor those that were added on the Hub, kept by a push, and not known here.
    text = hub.repos["ada/digits"].head().files["README.md"].data.decode()
    hub.put("ada/digits", {"README.md": text.replace("## Cit", "On the Hub.\n\n## Cit").encode()})
    zoo.push(make(tmp_path / "fresh", channels=6), "ada/digits")
    with pytest.raises(RequestError, match=r"README.md was edited here and on the Hub"):
        zoo.push(other, "ada/digits")
    assert {"From here.", "On the Hub."} <= set(ModelCard.load("ada/digits").text.splitlines())


@pytest.mark.parametrize("start", ["\ufeff---\n", "\n---  \n", "---\r\n"], ids=repr)
def test_front_matter_is_found_however_it_begins(model, start):
    text = f'{start}license: mit  # mine\nlanguage: "no"\nversion: 1.10\n---\n# Title\n'
    merged = refreshed(folder.read_config(model), "", REF, text, None)
    assert merged.count("license:") == 1
    assert "license: mit  # mine\n" in merged
    assert 'language: "no"\nversion: 1.10\n' in merged


def test_rules_across_the_page_are_no_front_matter(model):
    merged = refreshed(folder.read_config(model), "", REF, "---\n\n# My title\n\n---\nText.\n", None)
    assert "# My title" in merged


def test_results_of_other_metrics_stay(model):
    config = folder.read_config(model)
    fid = "{task: {type: x}, dataset: {type: mnist, name: m}, metrics: [{type: fid, value: 3}]}"
    text = f"---\ntags: [{{a: 1}}]\nmodel-index:\n- odd\n- name: digits\n  results: [{fid}]\n---\nMine.\n"
    once = refreshed(config, "", REF, text, None)
    twice = refreshed(config, "", REF, once + "\nAnd more.\n", None)
    for merged in (once, twice):
        assert merged.count("type: fid") == 1
        assert merged.count("type: nats_per_image") == 1
        assert merged.count("- odd") == 1
    assert twice.count("<!-- pixelzoo:pushed") == 1


def test_a_card_that_is_no_text_is_the_requests_fault(hub, model):
    (model / "README.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="is not UTF-8 text"):
        zoo.push(model, "ada/digits")


def test_a_card_of_ones_own_gets_front_matter_only(model):
    config = folder.read_config(model)
    merged = refreshed(config, "", REF, "# All mine\n\nNo markers.\n", None)
    assert "# All mine\n\nNo markers." in merged
    assert "## Results" not in merged
    assert "library_name: pixelzoo" in merged
    with pytest.raises(RequestError, match=r"front matter of README.md is not YAML"):
        refreshed(config, "", REF, "---\na: [\n---\nx", None)


def test_other_models_in_a_model_index_are_left_alone(model):
    config = folder.read_config(model)
    kept = "---\nmodel-index:\n- name: other\n  results: []\ntags: solo\n---\nMine.\n"
    front = ModelCard(refreshed(config, "", REF, kept, None), ignore_metadata_errors=True)
    assert "other" in front.content
    assert "- solo" in front.content


@pytest.mark.parametrize(
    "front", [None, {}, {"pixelzoo": 3}, {"model-index": 3}, {"model-index": [{"results": [{"dataset": {}}]}]}], ids=str
)
def test_strange_cards_say_nothing(front):
    assert described(front) == {"results": []}


# Browsing.


def test_browsing_finds_what_carries_the_tag_on_every_page(hub, model, monkeypatch, zoo_command):
    for name in ("one", "two", "three"):
        zoo.push(model, f"ada/{name}")
    hub.put("ada/llama", {"README.md": b"---\nlibrary_name: transformers\n---\n"})
    broken = "library_name: pixelzoo\nself: 1\nignore_metadata_errors: true\neval_results: [1]\nmodel-index: 3\n"
    hub.put("ada/broken", {"README.md": f"---\n{broken}---\n".encode()})
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    zoo.push(model, "bob/four")
    done = zoo_command("list", "--hub", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {f"hf-hub:ada/{name}" for name in ("one", "two", "three", "broken")} | {"hf-hub:bob/four"}
    one = rows["hf-hub:ada/one"]
    assert set(one) == {"name", "architecture", "conditional", "dataset", "parameters", "weights", "metrics"}
    assert (one["architecture"], one["conditional"], one["dataset"]) == ("pixelcnn", True, "mnist")
    assert one["weights"] == "hub"
    assert one["metrics"] == [RESULT]
    table = zoo_command("list", "--hub", "--author", "bob").stdout
    assert "hf-hub:bob/four" in table
    assert "60.50" in table
    assert "ada" not in table


def test_a_strangers_words_do_not_reach_the_terminal_raw(hub, pushed, zoo_command):
    card = b'---\nlibrary_name: pixelzoo\npixelzoo: {architecture: "\\e]0;owned\\a", parameters: many}\n---\n'
    hub.put("ada/escape", {"README.md": card})
    done = zoo_command("list", "--hub")
    assert "?]0;owned?" in done.stdout
    hub.put("ada/escape", {"config.json": b'{"\\u001b[2J": 1}', "model.safetensors": b"", "\x1b[2J.bin": b""})
    for reference in ("hf-hub:ada/escape", "hf-hub:ada/escape@\x1b[2J"):
        assert "\x1b" not in zoo_command("pull", reference).stderr


def test_browsing_without_the_hub_shows_what_is_here(hub, pushed, zoo_command, monkeypatch):
    zoo.load(REF)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = zoo_command("list", "--hub", "--json")
    assert done.returncode == 0
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "Instead, what is here" in done.stderr
    names = {row["name"]: row["weights"] for row in json.loads(done.stdout)}
    assert names[f"{REF}@{pushed.revision}"] == "hub"
    assert names["pixelcnn-mnist"] == "bundled"
    assert len(scan_cache_dir(constants.HF_HUB_CACHE).repos) == 1
    assert zoo_command("list", "--author", "ada").returncode == 2


def test_the_client_is_one_that_we_know():
    major, minor = map(int, huggingface_hub.__version__.split(".")[:2])
    assert (1, 31) <= (major, minor) < (3, 0)


def test_info_and_sample_take_a_reference(pushed, zoo_command, tmp_path):
    about = json.loads(zoo_command("info", REF, "--json").stdout)
    assert (about["name"], about["weights"]) == ("digits", "hub")
    assert zoo_command("sample", f"{REF}@v1", "-n", "3", "-o", tmp_path / "x.png").returncode == 0
    assert zoo_hub.is_reference(REF)
