"""Take an image of a report's page, from the verdict to the first plot: how the images of this folder were made.

python docs/images/screenshots.py REPORT/report.html docs/images/parity-pass.png
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

#: CSS pixels; the image has more, for screens that show them.
WIDTH, SCALE, COLORS = 1100, 1.3, 48


def main(report: str, target: str) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        page.goto(Path(report).resolve().as_uri())
        end = page.locator(".plot").first.bounding_box()
        assert end is not None
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end["y"] + end["height"] + 8}
        shot = page.screenshot(full_page=True, clip=clip)
        browser.close()
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    # The commonest colours as they are, and all others (edges of letters) as the nearest of them: no flat tone shifts.
    common = sorted(image.getcolors(image.width * image.height) or [], reverse=True)[:COLORS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, color in common for channel in color])  # type: ignore[misc]
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {image.width} x {image.height}, {Path(target).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
