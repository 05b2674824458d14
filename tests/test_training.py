import json
import math
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import zoo
from zoo import training
from zoo.causal import Context
from zoo.data import to_grid
from zoo.evaluation import evaluate
from zoo.files import STAGED
from zoo.folder import read_config
from zoo.recipe import find_recipe, load_recipe
from zoo.registry import DATA
from zoo.run_folder import RunError, read_metrics

SHORT = ["training.epochs=2"]


def recipe(*overrides):
    return load_recipe(find_recipe("smoke"), [*SHORT, *overrides])


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "finished"
    summary = training.train(recipe(), output)
    return output, summary


def test_a_training_ends_with_a_model_folder_that_agrees_with_its_card(finished):
    output, summary = finished
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "config.json",
        "metrics.jsonl",
        "metrics.png",
        "model.safetensors",
        "previews",
        "recipe.yaml",
        "samples.png",
    ]
    assert set(summary) == {"run", "epochs", "images_per_second", "validation", "test"}
    again = evaluate(
        zoo.load(output), DATA.get("synthetic")("test"), dataset="synthetic", split="test", protocol="threshold"
    )
    assert again.nats_per_image == pytest.approx(summary["test"]["nats_per_image"], abs=1e-4)
    assert f"{again.nats_per_image:.2f} ± {again.nats_std_error:.2f}" in (output / "README.md").read_text()
    # Better than a fair coin for each of the 64 pixels, by far.
    assert summary["test"]["nats_per_image"] < 20
    assert load_recipe(output / "recipe.yaml") == recipe()


def test_a_line_of_metrics_and_a_picture_for_each_epoch(finished):
    output, _ = finished
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["train_nats"] < lines[0]["train_nats"]
    assert len(list((output / "previews").glob("epoch-*.png"))) == 2


def test_validation_after_every_other_epoch_and_after_the_last(tmp_path):
    output = tmp_path / "run"
    longer = recipe("training.epochs=5", "training.validate_every=2", "training.checkpoint_seconds=0.01")
    process = start(output, "training.epochs=5", "training.validate_every=2", "training.checkpoint_seconds=0.01")
    until(lambda: (output / "metrics.jsonl").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    training.train(longer, output, resume=True)
    assert [line["epoch"] for line in read_metrics(output)] == [2, 4, 5]
    assert [path.stem for path in sorted((output / "previews").iterdir())] == ["epoch-0002", "epoch-0004", "epoch-0005"]
    training.train(recipe("training.epochs=5"), tmp_path / "each")
    # Neither the weights nor the nats of the same epoch depend on when else there is a validation.
    assert weights(output) == weights(tmp_path / "each")
    each = {line["epoch"]: line | {"seconds": 0} for line in read_metrics(tmp_path / "each")}
    assert [line | {"seconds": 0} for line in read_metrics(output)] == [each[epoch] for epoch in (2, 4, 5)]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(finished, tmp_path):
    training.train(recipe(), tmp_path / "same")
    assert weights(tmp_path / "same") == weights(finished[0])
    training.train(recipe("seed=1"), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(finished[0])


def start(output, *overrides):
    command = ["train", "smoke", *SHORT, *overrides, "--resume", "--output", str(output)]
    code = "from zoo.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition, process):
    """Wait for something that the training does, however slow the machine."""
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


# Where the kill falls is decided by what the run has written, not by a clock: in the first epoch, or in the second.
@pytest.mark.parametrize("after", ["recipe.yaml", "checkpoint.safetensors", "metrics.jsonl"])
def test_a_killed_run_resumes_to_the_same_weights(after, finished, tmp_path):
    output = tmp_path / "run"
    often = "training.checkpoint_seconds=0.05"
    process = start(output, often)
    until(lambda: (output / after).exists(), process)
    time.sleep(0.1 * torch.rand(()).item())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output / "config.json").exists()
    summary = training.train(recipe(often), output, resume=True)
    assert weights(output) == weights(finished[0])
    assert summary["test"] == finished[1]["test"]
    mine, others = (
        [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (output, finished[0])
    )
    assert mine == others
    assert not list(output.glob(f"{STAGED}*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_resumes(number, code, finished, tmp_path):
    output = tmp_path / "run"
    process = start(output)
    until(lambda: (output / "previews").exists(), process)
    time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert b"--resume" in stderr
    assert b"Traceback" not in stderr
    assert (output / "checkpoint.safetensors").exists()
    training.train(recipe(), output, resume=True)
    assert weights(output) == weights(finished[0])


def test_a_finished_run_is_not_trained_again(finished):
    output, summary = finished
    before = weights(output), (output / "model.safetensors").stat().st_mtime_ns
    assert training.train(recipe(), output, resume=True) == summary
    assert before == (weights(output), (output / "model.safetensors").stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("overrides", "resume", "message"),
    [([], False, "--resume continues it"), (["seed=3"], True, r"another recipe[\s\S]*-seed: 0\n\+seed: 3")],
)
def test_a_folder_that_holds_a_run_is_left_alone(finished, overrides, resume, message):
    with pytest.raises(RunError, match=message):
        training.train(recipe(*overrides), finished[0], resume=resume)


def test_a_run_from_before_a_setting_was_there_goes_on(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert text.count("  validate_every: 1\n") == 1
    (tmp_path / "run" / "recipe.yaml").write_text(text.replace("  validate_every: 1\n", ""))
    assert training.train(recipe(), tmp_path / "run", resume=True)["test"] == finished[1]["test"]
    with pytest.raises(RunError, match=r"-  validate_every: 1\n\+  validate_every: 2"):
        training.train(recipe("training.validate_every=2"), tmp_path / "run", resume=True)


def test_metrics_that_do_not_say_when_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "seconds": 2.0}\n{"validation_nats": 3.0}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: no epoch and no seconds; delete the file"):
        read_metrics(tmp_path)


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        training.train(recipe(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_two_trainings_do_not_share_a_folder(tmp_path):
    output = tmp_path / "run"
    process = start(output, "training.epochs=50")
    until(lambda: (output / "previews").exists(), process)
    with pytest.raises(RunError, match="in use by another training"):
        training.train(recipe("training.epochs=50"), output, resume=True)
    process.kill()
    process.communicate()


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    run = training.begin(recipe())
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.inf)
    before = [parameter.clone() for parameter in run.model.parameters()]
    with pytest.raises(training.TrainingError, match=r"lower optimizer\.learning_rate"):
        training.step(recipe(), run, DATA.get("synthetic")("train").to(training._device()), torch.arange(8), 10)
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


def test_every_step_draws_bits_of_its_own_and_the_same_ones_again():
    plan, data, batch = recipe("data.protocol=dynamic"), DATA.get("synthetic")("train"), torch.arange(32)

    def nats(at):
        run = training.begin(plan)
        run.step = at
        return training.step(plan, run, data.to(training._device()), batch, 100)

    assert nats(0) == nats(0)
    assert nats(0) != nats(1)


def test_the_first_step_is_adams():
    plan = recipe("training.precision=float32", "optimizer.warmup_steps=0", "training.ema=0.0")
    run, data = training.begin(plan), DATA.get("synthetic")("train")
    batch = torch.arange(16)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    model = zoo.create("pixelcnn", **plan.model.arguments)
    model.load_state_dict(run.model.state_dict())
    x = to_grid(data.images[batch], "threshold")
    loss = -model.likelihood.log_prob(model(x, Context(labels=data.labels[batch])), x).mean()
    loss.backward()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.99))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    optimizer.step()
    assert training.step(plan, run, data, batch, 100) == pytest.approx(loss.item(), rel=1e-5)
    for mine, expected, old, average in zip(
        run.model.parameters(), model.parameters(), before, run.average.module.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(average, mine)
        if old.abs().max() > 0:
            assert not torch.equal(mine, old)


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own():
    first, second = training.order(0, 0, 1000), training.order(0, 1, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(second.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
    assert not torch.equal(first, training.order(1, 0, 1000))


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(zoo_command, tmp_path):
    answer = zoo_command("train", "smoke", "--dry-run", "--json")
    plan = json.loads(answer.stdout)
    assert plan["parameters"] == 6379
    assert plan["steps"] == 256
    assert plan["estimated_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_validations():
    plan = training.dry_run(recipe("training.epochs=7", "training.validate_every=3"))
    assert plan["validations"] == 3  # after 3, 6 and 7


def test_the_recorded_training_says_what_made_it(finished):
    config = read_config(finished[0])
    assert config["training"]["seed"] == 0
    assert config["training"]["device"] in ("cpu", "cuda")
    assert config["weights"]["sha256"]


CONDITIONS = [
    "model.vector_size=4",
    "model.map_channels=1",
    "model.condition_dropout=0.3",
    "data.name=moments",
    "data.of={name: coarse, of: synthetic, factor: 2}",
    "training.epochs=1",
]


def test_every_condition_is_trained_and_dropped_from_a_recipe(tmp_path):
    summary = training.train(recipe(*CONDITIONS), tmp_path / "run")
    model, config = zoo.load(tmp_path / "run"), read_config(tmp_path / "run")
    assert (config["num_classes"], config["vector_size"], config["map_channels"]) == (10, 4, 1)
    assert config["data_args"] == {"of": {"name": "coarse", "of": "synthetic", "factor": 2}}
    data = DATA.build({"name": "moments", **config["data_args"]}, "test", None)
    x = to_grid(data.images, "threshold")
    known = -model.log_prob(x, data.labels, vectors=data.vectors, maps=data.maps).mean().item()
    assert known == pytest.approx(summary["test"]["nats_per_image"], abs=1e-4)
    # What the condition tells is worth nats, and without it the model still knows what the images are like.
    unknown = -model.log_prob(x).mean().item()
    assert known < unknown < 64 * math.log(2)
    assert "vectors=vectors, maps=maps" in (tmp_path / "run" / "README.md").read_text()


def test_the_whole_condition_of_an_image_is_dropped_or_none_of_it():
    torch.manual_seed(0)
    context = Context(labels=torch.full((1000,), 3), vectors=torch.ones(1000, 2), maps=torch.ones(1000, 1, 2, 2))
    after = training.dropped(context, 0.25)
    gone = after.labels == -1
    assert 0.2 < gone.float().mean() < 0.3
    assert (after.labels[~gone] == 3).all()
    assert torch.equal(after.vectors, (~gone).float()[:, None].expand(1000, 2))
    assert torch.equal(after.maps, (~gone).float().view(-1, 1, 1, 1).expand(1000, 1, 2, 2))
    assert training.dropped(context, 0.0) is context
