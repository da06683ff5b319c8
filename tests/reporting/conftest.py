"""A browser, and the checker of accessibility that runs in it."""

import importlib.resources
import importlib.util

import pytest
from reporting import browser as browsers


@pytest.fixture(scope="session")
def browser():
    """The path of Chromium."""
    path = browsers.find()
    if path is None:
        pytest.skip("needs Chromium")
    return path


@pytest.fixture(scope="session")
def axe():
    """The script of axe-core."""
    if importlib.util.find_spec("axe_core_python") is None:
        pytest.skip("needs axe-core: pip install -e '.[dev]'")
    return importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")


@pytest.fixture
def accessible(browser, axe, tmp_path):
    """Asserts that axe-core finds nothing serious or critical in a page, light and dark, all of it unfolded."""

    def check(page):
        script = f"""{axe}
document.querySelectorAll("details").forEach((details) => {{ details.open = true; }});
setTimeout(() => axe.run().then((result) => tell({{
  dark: matchMedia("(prefers-color-scheme: dark)").matches, passes: result.passes.length,
  violations: result.violations.map((rule) => [rule.id, rule.impact, rule.nodes[0].html]),
}})), 500);"""
        for options, dark in (((), False), ((browsers.DARK,), True)):
            told = browsers.evaluated(browser, page, script, tmp_path, *options)
            assert told["dark"] == dark and told["passes"] > 10
            assert [rule for rule in told["violations"] if rule[1] in ("serious", "critical")] == []

    return check


@pytest.fixture
def fits_a_phone(browser, tmp_path):
    """Asserts that nothing of a page stands over the edge of a screen 360 pixels wide."""

    def check(page):
        outer = tmp_path / "phone.html"
        outer.write_text(f'<!doctype html><body><iframe width="360" height="800" src="{page.as_uri()}"></iframe></body>', encoding="utf-8")
        script = """addEventListener("load", () => { const inside = frames[0].document.documentElement;
tell({ width: inside.scrollWidth, height: inside.scrollHeight }); });"""
        told = browsers.evaluated(browser, outer, script, tmp_path, "--allow-file-access-from-files")
        assert told["width"] <= 360 and told["height"] > 800

    return check
