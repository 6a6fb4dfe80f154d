"""The small detectors of the tests of models are used here as well."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / 'models'))
