"""Pictures of a report and of a token viewer: light, dark, on a phone, printed.

    ssd-probe report runs/demo
    ssd-probe view runs/demo/probes/base --other runs/demo/probes/ssd --out view.html
    python docs/screenshots.py --report runs/demo/report.html --viewer view.html --out shots

Needs Debian's packages chromium and poppler-utils. Of the printed pages the first is kept, of a
report the first two. Each stays below 200 kB.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1180, "height": 780}},
    "dark": {"viewport": {"width": 1180, "height": 780}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 780}, "device_scale_factor": 1.5},
}
MOST = 200_000  # bytes


def shoot(browser: Any, page_file: Path, name: str, out: Path) -> list[Path]:
    """All looks of one page."""
    made = []
    for look, context in LOOKS.items():
        page = browser.new_context(**context).new_page()
        opened(page, page_file, name)
        page.wait_for_timeout(300)
        target = out / f"{name}_{look}.png"
        page.screenshot(path=target)
        made.append(small(target))
        page.context.close()
    return made + printed(browser, page_file, name, out)


def opened(page: Any, file: Path, name: str) -> None:
    """The page as one sees it first; a viewer where its first text changed most."""
    page.goto(file.resolve().as_uri())
    page.wait_for_selector(".token")
    if name == "viewer":
        page.keyboard.press("l")


def printed(browser: Any, page_file: Path, name: str, out: Path) -> list[Path]:
    """The first printed page of a viewer; of a report the page of the first figure too."""
    page = browser.new_context().new_page()
    opened(page, page_file, name)
    with tempfile.TemporaryDirectory() as folder:
        pdf = Path(folder) / "page.pdf"
        page.pdf(path=pdf, format="A4", print_background=False)
        page.context.close()
        subprocess.run(["pdftoppm", "-r", "70", "-png", pdf, f"{folder}/p"], check=True)
        sheets = sorted(Path(folder).glob("p-*.png"))
        shown = sheets[:2] if name == "report" else sheets[:1]
        pictures = [Image.open(sheet).convert("RGB") for sheet in shown]
        side = Image.new(
            "RGB", (sum(p.width + 8 for p in pictures) - 8, pictures[0].height), "#888"
        )
        for i, picture in enumerate(pictures):
            side.paste(picture, (i * (picture.width + 8), 0))
    target = out / f"{name}_print.png"
    side.save(target)
    return [small(target)]


def small(path: Path) -> Path:
    """The picture, with 256 colours where it is large; an error where it stays so."""
    picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size >= MOST:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size >= MOST:
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, more than {MOST}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path)
    parser.add_argument("--viewer", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        for name, file in (("report", args.report), ("viewer", args.viewer)):
            if file is not None:
                for path in shoot(browser, file, name, args.out):
                    print(f"{path}, {path.stat().st_size / 1e3:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
