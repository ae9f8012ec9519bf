"""The files that a site installs: package, requirements, example configuration, units.

Follows setup.py, pyproject.toml, systemd/*.service.
"""

import ast
import configparser
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, packages_distributions, version
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import boto3
import pika
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel

import fedimg
from fedimg import config
from fedimg.aws.preflight import AS_THE_WORKER
from fedimg.intake import announcement
from fedimg.process.systemd import MISCONFIGURED

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "fedimg.toml.example"
# A commented key has no blank behind its #, a comment has one.
COMMENTED_KEY = re.compile(r"^#(?=\w+ = )", re.MULTILINE)


@pytest.fixture(scope="module")
def installed(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a folder by `pip install .`; return the folder."""
    folder = tmp_path_factory.mktemp("installed")
    # From a copy: pip builds in the tree, and other tests run from there.
    source = tmp_path_factory.mktemp("source") / "fedimg"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fedimg", "lab", "tests"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    # The environment's own setuptools is one that setup.py asks for: no network is needed.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder, source],
        check=True,
        timeout=120,
    )
    return folder


@pytest.fixture(scope="module")
def metadata(installed: Path) -> Distribution:
    return Distribution.at(next(installed.glob("fedimg-*.dist-info")))


def test_fedimg_alone_is_installed(installed: Path) -> None:
    there = {path.name for path in installed.iterdir()} - {"bin"}
    assert there == {"fedimg", f"fedimg-{fedimg.__version__}.dist-info"}


def test_every_file_of_the_package_is_installed(installed: Path) -> None:
    def files(folder: Path) -> set[Path]:
        return {
            path.relative_to(folder)
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(installed / "fedimg") == files(ROOT / "fedimg")


def test_installed_package_brings_command_and_consumer(metadata: Distribution) -> None:
    points = {(point.group, point.name): point.value for point in metadata.entry_points}
    assert points == {
        ("console_scripts", "fedimg"): "fedimg.cli.commands:main",
        ("moksha.consumer", "KojiConsumer"): "fedimg.consumers:KojiConsumer",
    }
    for point in metadata.entry_points:
        assert callable(point.load())


@pytest.mark.process
def test_installed_command_runs(installed: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, installed / "bin/fedimg", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "worker" in ran.stdout


def test_metadata_names_version_and_license(metadata: Distribution) -> None:
    assert metadata.version == fedimg.__version__
    assert metadata.metadata["License"] == "Apache-2.0"
    assert metadata.metadata["License-File"] == "LICENSE"


def requirements(metadata: Distribution) -> dict[str, Requirement]:
    found = map(Requirement, metadata.requires or ())
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_constraints_pin_every_requirement_within_its_range(metadata: Distribution) -> None:
    pinned = constraints()
    for name, requirement in requirements(metadata).items():
        specifiers = list(pinned[name].specifier)
        assert [specifier.operator for specifier in specifiers] == ["=="], name
        assert requirement.specifier.contains(specifiers[0].version), name


def test_tests_run_with_the_versions_of_the_constraints(metadata: Distribution) -> None:
    pinned = constraints()
    for name, requirement in requirements(metadata).items():
        # tox's environments for tests have no linters.
        if requirement.marker is None or not requirement.marker.evaluate({"extra": "lint"}):
            assert pinned[name].specifier.contains(version(name)), name


@pytest.mark.parametrize(("folder", "extras"), [("fedimg", set()), ("lab", {"lab"})])
def test_every_import_is_a_declared_requirement(
    folder: str, extras: set[str], metadata: Distribution
) -> None:
    declared = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, metadata.requires or ())
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
    }
    distributions = packages_distributions()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in (
            imports(path) - set(sys.stdlib_module_names) - {"fedimg", "lab", "fedimg_messages"}
        ):
            names = {canonicalize_name(name) for name in distributions[module]}
            assert names & declared, f"{path} imports {module}"


def imports(path: Path) -> set[str]:
    """Return the top-level modules that a file imports when it runs; stubs are for mypy alone."""
    found = set()
    for node in at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module but for those below `if TYPE_CHECKING`."""
    yield tree
    checking = isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING"
    below = tree.orelse if checking and isinstance(tree, ast.If) else ast.iter_child_nodes(tree)
    for node in below:
        yield from at_run_time(node)


def test_example_configuration_loads() -> None:
    settings = config.load(EXAMPLE)
    assert settings.ec2.network.allowed_source
    assert settings.ec2.x86_64.utility_ami
    assert settings.ec2.aarch64.utility_ami


def test_example_configuration_has_every_key_with_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    full = tmp_path / "fedimg.toml"
    full.write_text(COMMENTED_KEY.sub("", text))
    every = tomllib.loads(full.read_text())
    assert keys_of(every) == model_keys(config.Settings)

    # Uncommenting all the defaults changes nothing.
    assert config.load(full) == config.load(EXAMPLE)


def keys_of(values: dict[str, Any]) -> set[str]:
    """Return the keys of a TOML document, with those of its tables as `table.key`."""
    found = set()
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0]
        if isinstance(value, dict) and value:
            found |= {f"{key}.{inner}" for inner in keys_of(value)}
        else:
            found.add(key)
    return found


def model_keys(model: type[BaseModel]) -> set[str]:
    """Return the keys that a model knows, as keys_of has them."""
    found = set()
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner = section(field.annotation)
        found |= {f"{key}.{each}" for each in model_keys(inner)} if inner else {key}
    return found


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the model behind a field that is a table, or an array of tables."""
    if get_origin(annotation) in (list, Union, UnionType):
        return next(filter(None, map(section, get_args(annotation))), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    # systemd minds the case of its keys.
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((ROOT / "systemd" / name).read_text())
    return parser


def every(name: str, key: str) -> list[str]:
    """All values of a key that a unit may have several times, word by word."""
    text = (ROOT / "systemd" / name).read_text()
    return [word for value in re.findall(rf"(?m)^{key}=(.*)$", text) for word in value.split()]


WORKER, CONSUMER = "fedimg-worker.service", "fedimg-consumer.service"
WEB = "fedimg-web.service"
HUB = "fedmsg-hub.service.d/fedimg.conf"


def test_hub_and_worker_share_user_state_directory_and_configuration() -> None:
    worker, hub = unit(WORKER)["Service"], unit(HUB)["Service"]
    for key in ("User", "Group", "StateDirectory", "StateDirectoryMode", "UMask"):
        assert worker[key] == hub[key], key
    assert every(HUB, "Environment") == [f"{config.PATH_VARIABLE}={config.DEFAULT_PATH}"]
    assert set(every(HUB, "Environment")) <= set(every(WORKER, "Environment"))
    assert f"/var/lib/{worker['StateDirectory']}" == str(config.Settings().state_directory)


def test_keys_are_given_to_the_worker_alone() -> None:
    database, keys = "-/etc/fedimg/environment", "-/etc/fedimg/aws.env"
    assert every(WORKER, "EnvironmentFile") == [database, keys]
    for name in (HUB, CONSUMER):
        assert every(name, "EnvironmentFile") == [database], name
        # Nor what an older installation has in the other file, or in the directory that they share.
        unset = set(every(name, "UnsetEnvironment"))
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} <= unset
        hidden = every(name, "InaccessiblePaths")
        signing = "-/etc/fedimg/catalogue.pem"
        assert {keys, database, signing, "-/var/lib/fedimg/.aws"} <= set(hidden), name
        assert "169.254.169.254" in every(name, "IPAddressDeny"), name


def test_hub_gets_no_environment_variable_with_aws_credentials() -> None:
    """Those that botocore itself knows, in the version that runs."""
    known = set()
    for module in ("credentials", "configprovider", "utils", "tokens"):
        text = Path(importlib.import_module(f"botocore.{module}").__file__ or "").read_text()
        known |= set(re.findall(r"AWS_[A-Z_]+[A-Z]", text))
    secret = re.compile(r"KEY|TOKEN|PROFILE$|CREDENTIALS_(FULL|RELATIVE|FILE)|CREDENTIALS_FILE")
    of_keys = {name for name in known if secret.search(name)}
    assert "AWS_SESSION_TOKEN" in of_keys
    for name in (HUB, CONSUMER, WEB):
        assert of_keys <= set(every(name, "UnsetEnvironment")), name


def test_units_leave_no_core_and_have_a_limit_of_memory() -> None:
    for name in (WORKER, HUB, CONSUMER, WEB):
        service = unit(name)["Service"]
        assert service["LimitCORE"] == "0", name
        assert re.fullmatch(r"\dG", service["MemoryMax"]), name
        # systemd's own choice, SIGABRT, is there to leave one.
        if "WatchdogSec" in service:
            assert service["WatchdogSignal"] == "SIGKILL", name


def test_units_have_no_privileges() -> None:
    for name in (WORKER, HUB, CONSUMER, WEB):
        service = unit(name)["Service"]
        assert service["User"] == ("fedimg-web" if name == WEB else "fedimg"), name
        for key, value in {
            "AmbientCapabilities": "",
            "CapabilityBoundingSet": "",
            "NoNewPrivileges": "yes",
            "PrivateDevices": "yes",
            "ProtectHome": "yes",
            "ProtectSystem": "strict",
            "RestrictNamespaces": "yes",
            "RestrictSUIDSGID": "yes",
        }.items():
            assert service[key] == value, (name, key)
        # The first list is what is permitted, a later one with ~ is taken out of it.
        allowed, *taken = every(name, "SystemCallFilter")
        assert (allowed, taken[0]) == ("@system-service", "~@privileged"), name
        # Nothing but the state directory is writable, and the worker's catalogue.
        catalogue = "-/srv/fedimg" if name == "fedimg-worker.service" else None
        assert service.get("ReadWritePaths") == catalogue, name
        assert service.get("StateDirectory") == (None if name == WEB else "fedimg"), name


def test_web_unit_has_a_user_of_its_own_and_no_keys() -> None:
    web = unit(WEB)["Service"]
    assert (web["User"], web["Group"]) == ("fedimg-web", "fedimg-web")
    # By which it may read the configuration and the state directory.
    assert web["SupplementaryGroups"] == unit(WORKER)["Service"]["Group"]
    own, keys = "-/etc/fedimg/web.env", {"-/etc/fedimg/aws.env", "-/var/lib/fedimg/.aws"}
    assert every(WEB, "EnvironmentFile") == [own]
    assert {own, "-/etc/fedimg/environment", *keys} <= set(every(WEB, "InaccessiblePaths"))
    assert "169.254.169.254" in every(WEB, "IPAddressDeny")
    assert every(WEB, "Environment") == [f"{config.PATH_VARIABLE}={config.DEFAULT_PATH}"]
    assert (web["Type"], web["Restart"]) == ("notify", "always")
    assert web["ExecStart"] == "/usr/bin/fedimg web"


def test_documented_command_runs_as_the_workers_user_with_its_environment() -> None:
    options = shlex.split(AS_THE_WORKER)
    given = [options[n + 1] for n, word in enumerate(options) if word == "-p"]
    service = unit(WORKER)["Service"]
    for key in ("User", "Group", "UMask", "StateDirectory", "StateDirectoryMode"):
        assert f"{key}={service[key]}" in given, key
    files = [one.partition("=")[2] for one in given if one.startswith("EnvironmentFile=")]
    assert files == every(WORKER, "EnvironmentFile")
    environment = [options[n + 1] for n, word in enumerate(options) if word == "-E"]
    assert environment == every(WORKER, "Environment")
    text = " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
    assert f"{AS_THE_WORKER} fedimg check" in text


@pytest.mark.process
def test_systemd_run_accepts_the_documented_command() -> None:
    """As far as it goes without a systemd: every option and property is understood."""
    done = subprocess.run(
        [*shlex.split(AS_THE_WORKER), "true"],
        # Nobody listens there.
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "unrecognized option" not in done.stderr
    assert "invalid option" not in done.stderr


def test_consumer_unit_is_the_workers_and_finds_the_shipped_configuration() -> None:
    worker = unit("fedimg-worker.service")["Service"]
    consumer = unit("fedimg-consumer.service")["Service"]
    for key in ("User", "Group", "StateDirectory", "StateDirectoryMode", "UMask"):
        assert worker[key] == consumer[key], key
    # Where README.md has fedimg installed.
    program = "/opt/fedimg/bin/fedora-messaging"
    assert consumer["ExecStart"].startswith(f"{program} consume ")
    assert "python3 -m venv /opt/fedimg\n" in (ROOT / "README.md").read_text()
    shipped = tomllib.loads((ROOT / "fedora-messaging/fedimg.toml").read_text())
    assert consumer["ExecStart"].endswith(f"--callback={shipped['callback']}")
    address = pika.URLParameters(shipped["amqp_url"])
    assert (address.host, address.virtual_host) == ("rabbitmq.fedoraproject.org", "/pubsub")
    (queue,) = shipped["queues"].values()
    assert (queue["durable"], queue["auto_delete"], queue["exclusive"]) == (True, False, False)
    (binding,) = shipped["bindings"]
    topics = announcement.topics(config.Settings(composes=config.Composes(locations=["https://x"])))
    assert set(binding["routing_keys"]) == {f"{shipped['topic_prefix']}.{each}" for each in topics}


def test_worker_unit_runs_the_worker_and_restarts_it() -> None:
    worker = unit("fedimg-worker.service")["Service"]
    assert worker["ExecStart"] == "/usr/bin/fedimg worker"
    for service in (worker, unit("fedmsg-hub.service.d/fedimg.conf")["Service"]):
        assert service["Restart"] == "always"
        assert service["Type"] == "notify"
        assert int(service["WatchdogSec"]) > 0


def test_no_unit_is_started_again_for_a_wrong_configuration() -> None:
    for name in (WORKER, HUB, CONSUMER, WEB):
        service = unit(name)["Service"]
        assert (service["Type"], service["Restart"]) == ("notify", "always"), name
        assert int(service["WatchdogSec"]) > 0, name
        statuses = every(name, "RestartPreventExitStatus")
        assert str(MISCONFIGURED) in statuses, name
        # What passes by itself is tried again: a database that is away, for one.
        assert "1" not in statuses, name


def test_fedmsg_configuration_enables_the_consumer() -> None:
    path = ROOT / "fedmsg.d/fedimg.py"
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    from fedimg.consumers import KojiConsumer

    assert scope["config"][KojiConsumer.config_key] is True


def test_policy_allows_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    policy = json.loads((ROOT / "docs/aws-policy.json").read_text())
    allowed = {
        action
        for statement in policy["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    text = "".join(path.read_text() for path in (ROOT / "fedimg").rglob("*.py"))
    called = set(re.findall(r"\.([a-z_]+)\(", text)) | set(re.findall(r'"(describe_\w+)"', text))
    needed = set()
    for service, name in {
        "ec2": "ec2",
        "ebs": "ebs",
        "servicequotas": "service-quotas",
        "sts": "sts",
    }.items():
        actions = boto3.client(name).meta.method_to_api_mapping
        needed |= {f"{service}:{actions[method]}" for method in called & actions.keys()}
    # Who one is, everybody may ask, whatever the policies say; that EBS direct is there, a refusal
    # by the policy tells as well.
    assert needed - {"sts:GetCallerIdentity", "ebs:ListSnapshotBlocks"} <= allowed


def hashed(name: str) -> dict[str, Requirement]:
    """Return a requirements file's pins; each line has the hashes of the release's files."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line)
            assert hashes, line
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), line
            parsed = Requirement(requirement)
            found[canonicalize_name(parsed.name)] = parsed
    return found


def test_hashed_requirements_are_all_that_fedimg_needs_in_the_versions_of_the_constraints() -> None:
    pinned, constrained = hashed("fedimg.txt"), constraints()
    for name, requirement in pinned.items():
        assert requirement.specifier == constrained[name].specifier, name
    needed = [canonicalize_name("fedimg")]
    for name in needed:
        extras = {"fedmsg": ["consumers", "commands", "crypto_ng"], "psycopg": ["binary"]}
        for text in Distribution.from_name(name).requires or ():
            one = Requirement(text)
            wanted = [{"extra": extra} for extra in ["", *extras.get(name, [])]]
            if one.marker is None or any(one.marker.evaluate(each) for each in wanted):
                each = canonicalize_name(one.name)
                assert each in pinned, f"{name} needs {each}"
                if each not in needed:
                    needed.append(each)
    assert len(needed) > 40


def test_hashed_requirements_without_fedmsg_are_the_same_less_what_fedmsg_brings() -> None:
    without, default = hashed("fedimg-amqp.txt"), hashed("fedimg.txt")
    assert not {"fedmsg", "moksha-hub", "txzmq", "txws", "pyzmq", "setuptools"} & without.keys()
    assert without.keys() <= default.keys()
    other = {name for name in without if without[name].specifier != default[name].specifier}
    # fedora-messaging itself needs pyOpenSSL; nothing holds the two back here.
    assert other == {"cryptography", "pyopenssl"}
    for name in other:
        (newer,), (held_back,) = without[name].specifier, default[name].specifier
        assert Version(newer.version) > Version(held_back.version), name
    assert {"fedora-messaging", "paramiko", "dbos", "pydantic", "typer", "rich"} <= without.keys()


def test_build_requirements_are_hashed_too() -> None:
    installer, build, constrained = hashed("installer.txt"), hashed("build.txt"), constraints()
    for name, requirement in (installer | build).items():
        assert requirement.specifier == constrained[name].specifier, name
    assert "pip" in installer
    # fedimg's own; those of its libraries are shown by tests/system/test_installation.py.
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    messages = tomllib.loads((ROOT / "fedimg-messages/pyproject.toml").read_text())
    for one in map(Requirement, [*own, *messages["build-system"]["requires"]]):
        (pinned,) = build[canonicalize_name(one.name)].specifier
        assert one.specifier.contains(pinned.version), one


@pytest.mark.process
def test_every_target_in_the_help_of_make_exists() -> None:
    named = re.findall(r"echo 'make (\S+)", (ROOT / "Makefile").read_text())
    assert {"demo", "test", "bench"} <= set(named)
    for target in named:
        planned = subprocess.run(
            ["make", "--dry-run", target],
            cwd=ROOT,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
        )
        assert planned.returncode == 0, planned.stderr
        assert "Nothing to be done" not in planned.stdout, target


def test_tox_installs_the_packages_that_make_does() -> None:
    made = set(re.findall(r"--editable (?:'|\./)?([\w.-]+)", (ROOT / "Makefile").read_text()))
    tox = configparser.ConfigParser(interpolation=None)
    tox.read_string((ROOT / "tox.ini").read_text())
    # tox installs the package of its own folder by itself.
    others = set(re.findall(r"--editable \./([\w.-]+)", tox["testenv"].get("deps", "")))
    assert tox["testenv"]["package"] == "editable"
    assert made - {"."} == others
