import pytest

from zoo.recipe import Recipe, RecipeError, dump_recipe, find_recipe, load_recipe, recipe_names

GOOD = """\
name: test
model:
  name: pixelcnn
  channels: 8
data:
  name: synthetic
training:
  epochs: 1
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def mistakes(path, *overrides):
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return [line.removeprefix(str(path)) for line in str(error.value).splitlines()]


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_is_right(name, write):
    recipe = load_recipe(find_recipe(name))
    assert load_recipe(write(dump_recipe(recipe))) == recipe


def test_all_mistakes_at_once_with_their_lines(write):
    path = write(
        "name: ../evil\nseed: true\nmodel:\n  name: pixelcnn\n  chanels: 64\n  layers: 0\n  image_shape: [1, 28]\n"
        "data:\n  name: mnits\n  protocol: treshold\noptimizer:\n  learning_rate: yes\n  learning_rate: 1e-3\n"
        "training:\n  epoch: 3\n  batch_size: 64.5\n"
    )
    assert mistakes(path) == [
        ":1: name: given '../evil'; letters, digits, '.', '_' and '-' only, a letter or digit first",
        ":2: seed: given True; must be a valid integer",
        ":5: model.chanels: unknown key; did you mean 'channels'?",
        ":6: model.layers: given 0; must be greater than 0",
        ":7: model.image_shape: given [1, 28]; too short",
        ":9: data.name: no data set is named 'mnits'; did you mean 'mnist' or 'kmnist' or 'moments'?",
        ":10: data.protocol: given 'treshold'; must be 'threshold', 'dynamic' or 'none'",
        ":12: optimizer.learning_rate: given 'yes'; must be a valid number",
        ":13: optimizer.learning_rate: given twice, first in line 12",
        ":14: training.epochs: missing",
        ":15: training.epoch: unknown key; did you mean 'epochs'?",
        ":16: training.batch_size: given 64.5; must be a valid integer",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", ":2: not YAML: expected ',' or ']', but got ':'"),
        ("", ":1: name: missing"),
        ("3", ":1: given 3; must be an object"),
        (GOOD + "more: !!python/object:os.system {}", "the YAML tag"),
        (GOOD + "more: 2020-01-01", "timestamp is not allowed"),
        (GOOD + "more: &a [1]\nother: *a", ":9: more: anchors and aliases are not allowed"),
        (GOOD + "? [a, b]\n: 1", ":9: a key must be a word"),
        (GOOD + "more: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_recipe_is_refused(write, text, message):
    assert message in "\n".join(mistakes(write(text)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", " (training.epochs=0): training.epochs: given 0; must be greater than 0"),
        ("training.epoch=1", " (training.epoch=1): training.epoch: unknown key; did you mean 'epochs'?"),
        ("training", " (training): an override is written section.key=value"),
        ("name.x=1", " (name.x=1): name.x: no such section"),
        ("model.block=nope", ":2: model: no layer is named 'nope'"),
        ("model.block={name: residual-block, kernel_size: 4}", ":2: model: kernel_size is 4; it must be odd"),
        ("model.block=gated-block", "maps 3 tensors, this model hands on 1; choose residual-block"),
        ("model={name: gated-pixelcnn, block: residual-block}", "maps 1 tensors, this model hands on 3"),
        ("model.name=pixelcn", " (model.name=pixelcn): model.name: no model is named 'pixelcn'; did you mean"),
        ("data.protocol=none", "data.protocol: 'none' gives 256 levels, but the model's likelihood has 2"),
        ("optimizer.learning_rate=.inf", "optimizer.learning_rate: given inf"),
    ],
)
def test_a_wrong_override_is_named(write, override, message):
    (line,) = mistakes(write(GOOD), override)
    assert line.startswith(message) or message in line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.fctor=2", "data.fctor: unknown key; did you mean 'factor'?"),
        ("data.factor=1", "data.factor: given 1; must be greater than 1"),
        ("data.split=test", "data.split: unknown key; known: of, factor, name, protocol"),
        ("data.protocol=nope", "data.protocol: given 'nope'; must be 'threshold', 'dynamic' or 'none'"),
        ("data={name: folder}", "data.path: missing"),
        ("data={name: mnist, factor: 2}", "data.factor: unknown key; known: name, protocol"),
    ],
)
def test_a_data_sets_arguments_are_its_builders(write, override, message):
    recipe = write(GOOD.replace("name: synthetic", "name: coarse\n  of: synthetic\n  factor: 2"))
    assert load_recipe(recipe).data.arguments == {"of": "synthetic", "factor": 2}
    (line,) = mistakes(recipe, override)
    assert message in line


def test_an_override_makes_the_sections_it_needs(write):
    recipe = load_recipe(write(GOOD), ["prior=", "prior.gaussian.std=0.1"])
    assert recipe.prior is not None
    assert recipe.prior.gaussian.std == 0.1


def test_overrides_reach_every_setting(write):
    recipe = load_recipe(
        write(GOOD), ["model.block={name: residual-block, kernel_size: 5}", "optimizer.betas=[0.8, 0.9]", "seed=7"]
    )
    assert isinstance(recipe, Recipe)
    assert recipe.model.arguments["block"] == {"name": "residual-block", "kernel_size": 5}
    assert recipe.optimizer.betas == (0.8, 0.9)
    assert recipe.seed == 7


def test_yaml_1_2_numbers_and_words(write):
    recipe = load_recipe(write(GOOD.replace("name: test", "name: no")), ["optimizer.learning_rate=1e-3"])
    assert recipe.name == "no"
    assert recipe.optimizer.learning_rate == 0.001


def test_an_unknown_recipe_gets_close_matches():
    with pytest.raises(RecipeError, match="did you mean 'smoke'"):
        find_recipe("smoek")
