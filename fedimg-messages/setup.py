"""Build outside the checkout, where files of an older build would be installed again."""

import atexit
import shutil
import tempfile

from setuptools import setup

BUILD = tempfile.mkdtemp(prefix="fedimg-messages-build-")
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)

setup(options={"build": {"build_base": BUILD}, "egg_info": {"egg_base": BUILD}})
