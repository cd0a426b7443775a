"""``[tool.lastacross]`` of pyproject.toml: what it may have, and what is usual without it."""

from pathlib import Path

import pytest

from lastacross import config, datastore
from lastacross.errors import ConfigError

WRONG = [
    ("[tool.lastacross]\nmodells = []\n", "[tool.lastacross] has no key 'modells'. Did you mean 'models'?"),
    ("[tool.lastacross]\nzoo = []\n", "[tool.lastacross] has no key 'zoo'; its keys are models and demo"),
    ("[tool.lastacross]\nmodels = 'models'\n", "models 'models' must be a list of modules"),
    ("[tool.lastacross]\nmodels = ['a-b']\n", "models ['a-b'] must be a list of modules"),
    ("[tool.lastacross]\ndemo = 'load'\n", "demo 'load' must name a module and a function"),
    ("[tool]\nlastacross = 3\n", "[tool.lastacross] is not a table"),
    ("[tool.lastacross\n", "cannot be read: "),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(ConfigError) as refused:
        config.read_project(tmp_path)

    assert str(refused.value).startswith(f"{tmp_path}/pyproject.toml: ")
    assert words in str(refused.value)


def test_a_file_that_is_not_text_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="cannot be read"):
        config.read_project(tmp_path)


def test_without_a_table_the_scripts_and_models_py_are_taken(
    app_root: Path, configuration: config.Config
) -> None:
    for name in ("main.py", "models.py"):
        (app_root / name).touch()

    found = config.read_project(app_root, configuration.app)

    assert (found.models, found.demo) == (("main", "models"), "demo.load")
    assert config.read_project(app_root).models == ("models",)


def test_a_script_that_is_not_there_is_not_taken(app_root: Path, configuration: config.Config) -> None:
    assert config.read_project(app_root, configuration.app).models == ()


def test_what_the_table_says_is_taken(tmp_path: Path) -> None:
    text = '[tool.lastacross]\nmodels = ["shop.models", "tables"]\ndemo = "shop.samples.fill"\n'
    (tmp_path / "pyproject.toml").write_text(text)

    assert config.read_project(tmp_path) == config.Project(("shop.models", "tables"), "shop.samples.fill")


def test_a_module_of_models_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.lastacross]\nmodels = ['nowhere']\n")
    url = f"sqlite:///{tmp_path}/app.db"
    datastore.upgrade(url, tmp_path)

    with pytest.raises(ConfigError, match="the models of nowhere: there is no module `nowhere` in "):
        datastore.revision("anything", tmp_path, url)
