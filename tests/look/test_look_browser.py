"""The page of ``warmstart look`` in a real browser."""

import photos
import pytest

from browsers import opened
from warmstart.look.command import look_command


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["none", "strong"])
def test_every_picture_is_drawn_and_nothing_is_asked_for(browser, tmp_path, augment):
    root = photos.write(tmp_path / "photos")
    words = ["data=image_folder", f"data.root={root}", "data.size=32", f"augment={augment}"]
    path = look_command([*words, f"out={tmp_path}"])
    console, requested = opened(browser, path)
    assert console == []
    assert [url for url in requested if not url.startswith("data:")] == [path.as_uri()]
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) > 10
    assert min(widths) > 0
    for width in (400, 1200):
        browser.set_window_size(width, 900)
        sideways = "return document.documentElement.scrollWidth > window.innerWidth"
        assert not browser.execute_script(sideways), width
