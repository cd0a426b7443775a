"""Templates: the application's, the engine's, and those in the folders of the application's packages."""

from pathlib import Path

import jinja2
import pytest

from lastacross.webapp import templating


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_package_keeps_its_templates_in_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "templates" / "base.html", "<main>{% block content %}{% endblock %}</main>")
    page = '{% extends "base.html" %}{% block content %}{{ text }}{% endblock %}'
    write(tmp_path / "shop" / "orders" / "templates" / "page.html", page)

    drawn = templating.environment(tmp_path).get_template("shop/orders/page.html").render(text="<b>")

    assert drawn == "<main>&lt;b&gt;</main>"


def test_a_template_of_the_application_comes_before_one_of_a_package(tmp_path: Path) -> None:
    write(tmp_path / "templates" / "shop" / "page.html", "on top")
    write(tmp_path / "shop" / "templates" / "page.html", "in the package")

    assert templating.environment(tmp_path).get_template("shop/page.html").render() == "on top"


def test_the_engines_templates_are_found_beside_them(tmp_path: Path) -> None:
    write(tmp_path / "_ah" / "templates" / "error.html", "in a package of this name")

    found = templating.environment(tmp_path).get_template("_ah/error.html").filename
    assert found is not None
    assert found.startswith(str(Path(templating.__file__).parent))


@pytest.mark.parametrize("name", ["page.html", "shop/none.html", "shop/../page.html", "/page.html", "shop/"])
def test_another_file_is_no_template(tmp_path: Path, name: str) -> None:
    write(tmp_path / "shop" / "templates" / "page.html", "in the package")
    write(tmp_path / "page.html", "elsewhere")

    with pytest.raises(jinja2.TemplateNotFound) as raised:
        templating.environment(tmp_path).get_template(name)
    assert raised.value.name == name
