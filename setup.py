"""What pip has to know to install fedimg; constraints.txt has the exact versions that were run."""

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "fedimg/__init__.py").read_text(), re.M)

# A range opens at the version that the tests were run with. It closes where the next release may
# change what fedimg relies on, or, where a comment says so, where a release was seen to break it.
FEDMSG = [
    "fedmsg[consumers,commands,crypto_ng]==1.1.7",
    "moksha.hub==1.5.17",
    "txZMQ==1.0.0",
    "txWS==0.9.1",
    # Below, moksha's hub runs with no consumer and no error; above, pkg_resources is gone.
    "setuptools>=75.8.2,<82",
    # Above, fedmsg silently stops signing.
    "pyOpenSSL>=24.2.1,<24.3",
    "cryptography>=43.0.3,<44",  # the newest that this pyOpenSSL takes
    "pyzmq>=27.3.0,<28",
]
# What both buses need: with AMQP alone, requirements/fedimg-amqp.txt.
COMMON = [
    "fedora-messaging>=3.9.1,<4",
    "pika>=1.4.4,<2",
    # By whose class the website's message is built and validated (announcing.also).
    "fedora-image-uploader-messages>=1.2.0,<2",
    "boto3>=1.44.5,<1.45",
    "botocore>=1.44.5,<1.45",
    "paramiko>=5.1.0,<6",
    "productmd>=1.51,<2",
    "google-re2>=1.1.20251105,<2",
    "requests>=2.34.2,<3",
    "urllib3>=2.8.0,<3",
    "python-xz>=0.7.0,<0.8",
    # The standard library's own from Python 3.14 on.
    "backports.zstd>=1.8.0,<2",
    # By which the catalogue's statements are signed.
    "cryptography>=43.0.3",
    "securesystemslib>=1.4.0,<2",
    # By which messages are checked against their schemas.
    "jsonschema>=4.26.0,<5",
    # fedimg.worker.queue_poll stands in for a part of its inside.
    "dbos==3.4.0",
    "SQLAlchemy>=2.1.9,<2.2",
    "psycopg[binary]>=3.3.9,<3.4",
    "pydantic>=2.14.3,<3",
    "typer>=0.29.2,<0.30",
    "rich>=15.0.0,<16",
    # The pages and metrics of `fedimg web`.
    "starlette>=1.10.0,<2",
    "uvicorn>=0.54.0,<0.55",
    "Jinja2>=3.1.6,<4",
    "MarkupSafe>=3.0.3,<4",
    "prometheus-client>=0.26.0,<0.27",
]

EXTRAS = {
    "lab": [
        "moto==5.2.5",
        # What moto.server needs; moto's own extra brings forty packages for services not used here.
        "flask>=3.1.3,<4",
        "flask-cors>=6.0.5,<7",
        "werkzeug>=3.1.9,<4",
        "asyncssh>=2.23.1,<3",
        # In which the resolver of virtual machines reads questions and writes answers.
        "dnspython>=2.9.2,<3",
        "PyYAML>=6.0.3,<7",
        "pika>=1.4.4,<2",
    ],
    "test": [
        "pytest>=9.2.0,<10",
        "pytest-cov>=7.1.0,<8",
        "pytest-timeout>=2.4.0,<3",
        "pytest-xdist>=3.8.0,<4",
        "hypothesis>=6.170.15,<7",
        # By which a browser is driven.
        "selenium>=4.51.0,<5",
        # By which the catalogue's statements and documents are read.
        "in-toto-attestation>=0.9.3,<0.10",
        # By which messages of Koji are what Koji's own are.
        "koji-fedoramessaging-messages>=1.3.0,<2",
    ],
    "lint": [
        "import-linter>=2.17,<3",
        "mypy>=2.4.1,<2.5",
        "ruff>=0.17.6,<0.18",
        "boto3-stubs>=1.44.1,<1.45",
        "mypy-boto3-ec2>=1.43.118,<1.45",
        "types-paramiko>=5.0.0,<6",
        "types-requests>=2.33.0,<3",
        "types-PyYAML>=6.0.12,<7",
    ],
}

# Not in the checkout: what an older build left there would be installed again.
BUILD = tempfile.mkdtemp(prefix="fedimg-build-")
atexit.register(shutil.rmtree, BUILD, ignore_errors=True)

setup(
    name="fedimg",
    version=VERSION.group(1),
    description="Koji image builds become tested, public AMIs in every EC2 region",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["fedimg", "fedimg.*"]),
    package_data={
        "fedimg.aws.write": ["*.sh"],
        "fedimg.aws.boot": ["check_scripts/*.sh"],
        "fedimg.catalogue": ["page/*"],
        "fedimg.web": ["templates/*.html", "static/*"],
    },
    install_requires=FEDMSG + COMMON,
    extras_require=EXTRAS,
    options={"build": {"build_base": BUILD}, "egg_info": {"egg_base": BUILD}},
    entry_points={
        "console_scripts": ["fedimg = fedimg.cli.commands:main"],
        "moksha.consumer": ["KojiConsumer = fedimg.consumers:KojiConsumer"],
    },
    classifiers=[
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
