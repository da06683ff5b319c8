"""Headless Chromium: what a page looks like to whoever opens it."""

import html
import json
import re
import shutil
import subprocess

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--enable-logging=stderr",
    "--window-size=1300,1000",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"


def find():
    """The program, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def opened(browser, page, folder, *options):
    """What the page has become when its scripts are done, and what the console says."""
    command = [browser, *OPTIONS, *options, f"--user-data-dir={folder / 'browser'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return shown.stdout, "\n".join(line for line in shown.stderr.splitlines() if "CONSOLE" in line)


def evaluated(browser, page, script, folder, *options):
    """Open a copy of the page with a script behind its own, which calls `tell` with an object; that object."""
    tell = (
        "const tell = (told) => { const place = document.createElement('pre'); place.id = 'told'; "
        "place.textContent = JSON.stringify(told); document.body.append(place); };"
    )
    copy = folder / f"copy_of_{page.name}"
    own, end, rest = page.read_text(encoding="utf-8").rpartition("</body>")
    copy.write_text(f"{own}<script>{tell}\n{script}</script>{end}{rest}", encoding="utf-8")
    content, _ = opened(browser, copy, folder, "--virtual-time-budget=60000", *options)
    told = re.search(r'<pre id="told">(.*?)</pre>', content, re.DOTALL)
    assert told is not None, content[-2000:]
    return json.loads(html.unescape(told[1]))
