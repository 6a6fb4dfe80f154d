"""A page in headless Chromium, for the tests."""
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)


def opened(page: Path, folder: Path):
    """The document after its scripts have run; what the console says."""
    run = subprocess.run(
        [BROWSER, '--headless', '--no-sandbox', '--disable-gpu',
         f'--user-data-dir={folder}', '--virtual-time-budget=5000',
         '--enable-logging=stderr', '--dump-dom', page.as_uri()],
        check=True, capture_output=True, text=True, timeout=300)
    return run.stdout, re.findall('CONSOLE.*', run.stderr)
