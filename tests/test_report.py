"""The page about a model: its figures are right, it needs nothing but itself, and says what it cannot say."""

import dataclasses
import html.parser
import json
import math
import re
import shutil

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo import findings, page, report
from zoo.classifier import classifier, predicted
from zoo.data import to_grid
from zoo.errors import RequestError
from zoo.evaluation import pixel_nats, prompts
from zoo.layers import ConditionalBias
from zoo.registry import DATA


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A conditional model, and one that is told nothing, trained for a moment."""
    from click.testing import CliRunner

    from zoo.cli import cli

    place = tmp_path_factory.mktemp("runs")
    for name, told in {"told": "10", "untold": "null"}.items():
        options = ["name=" + name, f"model.num_classes={told}", "training.epochs=1", "--output", str(place / name)]
        answer = CliRunner().invoke(cli, ["train", "smoke", *options], standalone_mode=False)
        assert not answer.return_value
        assert answer.exception is None
    return place


@pytest.fixture
def written(runs, zoo_inside, tmp_path):
    answer = zoo_inside("report", runs / "told", "--against", runs / "untold", "-o", "page", "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout), tmp_path / "page"


class Requests(html.parser.HTMLParser):
    """All that a browser would ask for."""

    def __init__(self, text):
        super().__init__()
        self.places, self.pictures, self.words, self.policy = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places += [given[name] for name in ("src", "href", "srcset", "data", "action") if name in given]
        assert tag not in ("script", "iframe", "object", "embed")
        if tag == "img":
            self.pictures.append(given["alt"])
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_data(self, data):
        self.words += data


def test_the_page_is_one_file_that_asks_for_nothing(written):
    text = (written[1] / "index.html").read_text(encoding="utf-8")
    seen = Requests(text)
    assert seen.places
    assert all(place.startswith("data:") for place in seen.places)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in seen.policy
    assert all(seen.pictures)
    assert "nan" not in re.findall(r"\w+", seen.words)


def test_the_markdown_says_the_same(written):
    summary, folder = written
    text, seen = (folder / "report.md").read_text(encoding="utf-8"), Requests((folder / "index.html").read_text())
    links = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)
    assert [caption for caption, _ in links] == seen.pictures
    for _, file in links:
        assert (folder / file).read_bytes()[:4] in (b"\x89PNG", b"GIF8")
    assert sorted(summary["files"]) == sorted(str(path.relative_to(folder.parent)) for path in folder.iterdir())
    prose = [line for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines() if line and line[0] not in "#|!*"]
    assert len(prose) >= 8
    assert all(line in seen.words for line in prose)


def test_the_figures_are_those_of_eval(written, runs, zoo_inside):
    summary, folder = written
    words = (folder / "report.md").read_text(encoding="utf-8")
    nats = []
    for row, name in zip(summary["models"], ("told", "untold"), strict=True):
        result = json.loads(zoo_inside("eval", runs / name, "--json").stdout)
        assert row["name"] == name
        for key in ("nats_per_image", "nats_std_error", "bits_per_dim"):
            assert row[key] == pytest.approx(result[key], rel=1e-5)
        nats.append(result["nats_per_image"])
        assert f"{result['nats_per_image']:.2f} ± {result['nats_std_error']:.2f}" in words
    better, worse = ("told", "untold") if nats[0] < nats[1] else ("untold", "told")
    assert re.search(rf"costs {abs(nats[0] - nats[1]):.2f} ± [\d.]+ nats less under {better} than under {worse}", words)
    assert f"The gain here is {nats[1] - nats[0]:.2f} ± " in words


def test_classes_that_no_image_has_are_left_blank_and_names_told_apart(runs):
    read = DATA.get("synthetic")
    found = findings.gather(runs / "told", runs / "told", "synthetic", read, images=3)
    assert [subject.name for subject in found.subjects] == ["told", "told-2"]
    text = page.markdown("x", report.blocks(found))
    assert "nan" not in re.findall(r"\w+", text)
    assert "within two standard errors" in text
    files = re.findall(r"\]\(([^)]*)\)", text)
    assert len(files) == len(set(files))


def test_a_single_class_tells_nothing(runs):
    def read(split):
        data = DATA.get("synthetic")(split)
        return dataclasses.replace(data, labels=torch.zeros_like(data.labels), num_classes=1)

    text = page.markdown("x", report.blocks(findings.gather(runs / "told", runs / "untold", "mine", read, images=20)))
    assert "An image costs" in text
    assert "is told the class" not in text


def test_what_a_model_says_without_a_class_it_may_leave_out(runs, tmp_path):
    model = saved(runs, tmp_path / "free", "threshold", num_classes=10, condition_dropout=0.1)
    found = findings.gather(model, None, "synthetic", DATA.get("synthetic"), images=20)
    text = page.markdown("x", report.blocks(found))
    with torch.no_grad():
        alone, each = (
            (-zoo.load(model).log_prob(found.images)).mean(),
            torch.stack([zoo.load(model).log_prob(found.images, labels=label) for label in range(10)]),
        )
    assert f"Asked without a class, which its training has taught it, it has {alone:.2f}." in text
    assert f"equally frequent: {math.log(10) - each.logsumexp(0).mean():.2f} nats on 20 of the test images" in text


def test_markdown_shows_words_as_they_are():
    text = "a <b> of *c* _d_ e_f [g](h) `i` | j\nk"
    shown = page.markdown(text, [page.Words(text), page.Table([text], [[text]])])
    assert shown.count(r"a \<b\> of \*c\* \_d\_ e_f \[g\](h) \`i\` \| j k") == 4


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_model_of_the_hub_comes_with_its_curves(runs, hub, zoo_inside, tmp_path):
    zoo.push(runs / "untold", "ada/untold")
    answer = zoo_inside("report", "hf-hub:ada/untold", "-n", "20")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "reports" / "untold" / "training.png").is_file()
    assert "```yaml" in (tmp_path / "reports" / "untold" / "report.md").read_text()


def test_some_images_of_sorted_data_are_of_all_classes(runs):
    def read(split):
        data = DATA.get("synthetic")(split)
        by_class = data.labels.argsort(stable=True)
        return data.each(lambda part: part[by_class])

    found = findings.gather(runs / "told", None, "mine", read, images=50)
    assert len(found.test) == 50
    assert len(found.test.labels.unique()) > 5
    assert not torch.equal(found.test.labels, found.test.labels.sort().values)


def test_what_is_told_of_images_is_drawn_from_all_over_the_data(runs, tmp_path):
    mapped = zoo.load(saved(runs, tmp_path / "mapped", "threshold", map_channels=1, num_classes=10))
    data = DATA.build({"name": "coarse", "of": "synthetic", "factor": 2}, "test", None)
    count, given = prompts(mapped, data.each(lambda part: part[data.labels.argsort()]), 20)
    assert count == len(given["labels"]) == len(given["maps"]) == 20
    assert {0, 9} <= {*given["labels"].tolist()}


def test_images_without_classes_have_a_page_without_them(runs):
    def read(split):
        return zoo.data.ImageSet(DATA.get("synthetic")(split).images)

    found = findings.gather(runs / "untold", None, "mine", read, images=50)
    headings = [block.text for block in report.blocks(found) if isinstance(block, page.Heading)]
    assert headings == ["Samples", "Where the nats are", "What it sees", "Training"]


def test_another_protocol_is_mentioned(runs, tmp_path):
    shutil.copytree(runs / "untold", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"protocol": "dynamic"}))
    found = findings.gather(runs / "told", tmp_path / "other", "synthetic", DATA.get("synthetic"), images=20)
    text = page.markdown("x", report.blocks(found))
    assert "untold was trained under protocol dynamic, and is measured under protocol threshold here." in text
    assert text.count("was trained under") == 1


def test_a_name_cannot_leave_the_folder(runs, tmp_path, zoo_inside):
    shutil.copytree(runs / "untold", tmp_path / "evil")
    config = json.loads((tmp_path / "evil" / "config.json").read_text())
    (tmp_path / "evil" / "config.json").write_text(json.dumps(config | {"name": "../$x_{y$"}))
    answer = zoo_inside("report", tmp_path / "evil", "-n", "20")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "reports" / "x_-y" / "index.html").is_file()


def saved(runs, place, protocol, **arguments):
    """A model that was never trained, as a folder."""
    model = zoo.create("pixelcnn", channels=2, layers=1, image_shape=(1, 8, 8), **arguments)
    for layer in model.modules():
        if isinstance(layer, ConditionalBias):  # zero at first: all classes alike
            torch.nn.init.normal_(layer.weight)
    config = json.loads((runs / "untold" / "config.json").read_text())
    arguments |= {"channels": 2, "layers": 1, "image_shape": [1, 8, 8]}
    place.mkdir()
    zoo.folder.save(model, place, config | {"name": place.name, "model_args": arguments, "protocol": protocol})
    return place


def test_models_of_other_levels_are_not_compared(runs, tmp_path):
    grey = saved(runs, tmp_path / "grey", "none", likelihood="categorical")
    with pytest.raises(RequestError, match="protocol none makes images of 256 levels, one of the models has 2"):
        findings.gather(grey, runs / "untold", "synthetic", DATA.get("synthetic"), images=20)


def test_other_data_and_what_only_one_is_told_are_mentioned(runs, tmp_path, zoo_inside):
    mapped = saved(runs, tmp_path / "mapped", "threshold", map_channels=1)
    data = ["--data", "{name: coarse, of: synthetic, factor: 2}", "-n", "20"]
    answer = zoo_inside("report", runs / "untold", "--against", mapped, *data)
    assert answer.returncode == 0, answer.stderr
    text = (tmp_path / "reports" / "untold" / "report.md").read_text(encoding="utf-8")
    assert "Measured on 20 test images of coarse" in text
    assert "untold was trained on synthetic, and is measured on coarse here." in text
    assert "untold is conditional on nothing, mapped on maps: what is told of each image is not the same" in text
    assert "What else it is told is that of test images." in text


@pytest.mark.parametrize(
    ("arguments", "of", "protocol"),
    [
        ({"num_classes": 10}, "synthetic", "threshold"),
        ({"map_channels": 1, "num_classes": 10}, {"name": "coarse", "of": "synthetic", "factor": 2}, "threshold"),
        ({"likelihood": {"name": "categorical", "levels": 256}}, "synthetic", "none"),
    ],
)
@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
def test_the_nats_of_pixels_add_up_to_those_of_images(name, arguments, of, protocol):
    torch.manual_seed(0)
    model = zoo.create(name, channels=4, layers=1, image_shape=(1, 8, 8), **arguments)
    data = DATA.build(of, "test", None).each(lambda part: part[:50])
    x = to_grid(data.images, protocol)
    nats = pixel_nats(model, data, x, batch_size=30)
    context = {"labels": data.labels if "num_classes" in arguments else None, "maps": data.maps}
    given = {key: part for key, part in context.items() if part is not None}
    with torch.no_grad():
        assert torch.allclose(nats.sum((1, 2)), -model.log_prob(x, **given), rtol=1e-4)
        if protocol == "threshold":
            logits = model(x, model.condition(len(x), **given))
            each = F.binary_cross_entropy_with_logits(logits, x, reduction="none")[:, 0]
            assert torch.allclose(nats, each, rtol=1e-4, atol=1e-5)


def test_the_nats_of_a_coloured_pixel_are_those_of_its_channels():
    torch.manual_seed(0)
    likelihood = {"name": "categorical", "levels": 4}
    model = zoo.create("pixelcnn", channels=6, layers=1, image_shape=(3, 4, 4), likelihood=likelihood)
    x = torch.randint(4, (5, 3, 4, 4)) / 3
    data = zoo.data.ImageSet((255 * x).to(torch.uint8))
    nats = pixel_nats(model, data, x)
    assert nats.shape == (5, 4, 4)
    with torch.no_grad():
        assert torch.allclose(nats.sum((1, 2)), -model.log_prob(x), rtol=1e-4)


def test_the_judge_learns_and_is_the_same_again():
    data, test = DATA.get("synthetic")("train"), DATA.get("synthetic")("test")
    state = torch.get_rng_state()
    judge, again = (classifier(data, "dynamic") for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    x = to_grid(test.images, "threshold")
    seen, sure = predicted(judge, x)
    assert torch.equal(sure, predicted(again, x)[1])
    assert (seen == test.labels).float().mean() > 0.5
