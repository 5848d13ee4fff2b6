"""Put the sources of the documentation together: `python -m docs.generate FOLDER [--quick]`."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from docs.generate.api_pages import api_pages
from docs.generate.check_pages import check_pages
from docs.generate.command_pages import command_page
from docs.generate.gallery_pages import gallery_pages

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Copy the written pages, make the others, and say what there is and what is lacking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the sources go")
    parser.add_argument("--quick", action="store_true", help="run no example of the gallery")
    options = parser.parse_args()
    started = time.perf_counter()
    for path in [HERE / "conf.py", *HERE.rglob("*.md"), *HERE.rglob("*.css")]:
        target = options.folder / path.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    pictures = HERE.parent / "examples" / "pictures"
    shutil.copytree(pictures, options.folder / "pictures", dirs_exist_ok=True)
    commands = command_page(options.folder / "commands.md")
    names, without = api_pages(options.folder / "api")
    lacking = check_pages(options.folder / "checks")
    cache = options.folder.parent / "gallery"
    seconds = gallery_pages(options.folder / "gallery", cache, run=not options.quick)
    print(f"{commands} commands, {names} public names; checks without a page: {lacking}")
    print(f"public functions without an example: {len(without)} {' '.join(without)}")
    print("examples run:", {name: round(took, 1) for name, took in seconds.items()} or "none")
    print(f"{time.perf_counter() - started:.0f} seconds")
    if without or lacking:
        sys.exit("A page or an example is lacking.")


if __name__ == "__main__":
    main()
