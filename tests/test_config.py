"""The configuration: what is read of fedimg.toml, and what its errors say.

Follows fedimg/config/*.py.
"""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedimg import config
from fedimg.config import Check, ConfigError, ConfigUnusableNow, Limits, Settings, load
from fedimg.images import AMIType, Architecture, Virtualization

HVM, PV = Virtualization.HVM, Virtualization.PARAVIRTUAL


@pytest.fixture
def toml(tmp_path: Path):
    path = tmp_path / "fedimg.toml"

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    return write


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_empty_file_is_a_configuration(toml):
    assert load(toml("")).ec2 == Settings().ec2


def test_default_types_are_pv_and_hvm_in_standard_and_gp2():
    assert sorted(Settings().ec2.amis.types) == sorted(
        AMIType(virtualization, volume)
        for virtualization in (HVM, PV)
        for volume in ("standard", "gp2")
    )


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("sight = 'prod'", "sight", "site"),
        ("[kojii]", "kojii", "koji"),
        ("[koji]\nhubb = 'x'", "koji.hubb", "hub"),
        ("[ec2]\norigins = 'x'", "ec2.origins", "origin"),
        ("[ec2.x86_64]\nutility_amy = 'x'", "ec2.x86_64.utility_amy", "utility_ami"),
        ("[ec2.aarch64]\ntesttype = 'x'", "ec2.aarch64.testtype", "test_type"),
        ("[ec2.network]\nalowed_source = 'x'", "ec2.network.alowed_source", "allowed_source"),
        ("[ec2.amis]\nimds_v2 = true", "ec2.amis.imds_v2", "imdsv2"),
        ("[ec2.limits]\ncopy_ = 5", "ec2.limits.copy_", "copy"),
        ("[[checks]]\nname = 'a'\ncommand = 'b'\nstats = 0", "checks.0.stats", "status"),
        ("[announcing]\nconfirm_second = 5", "announcing.confirm_second", "confirm_seconds"),
        ("[retention]\nautomatics = true", "retention.automatics", "automatic"),
        (
            "[[retention.rules]]\ndisable_afer = 5",
            "retention.rules.0.disable_afer",
            "disable_after",
        ),
    ],
)
def test_misspelt_key_is_named_with_the_nearest(toml, text, key, nearest):
    path = toml(text)
    said = complaint(path)
    assert str(path) in said
    assert f"unknown key {key};" in said
    assert f"did you mean {nearest}?" in said


@pytest.mark.parametrize("key", ["aws_access_key_id", "aws_secret_access_key", "aws_profile"])
@pytest.mark.parametrize("table", ["", "[ec2]\n"])
def test_credentials_are_refused_as_settings(toml, table: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as raised:
        load(toml(f'{table}{key} = "planted"\n'))
    assert "planted" not in str(raised.value)


def test_unknown_key_is_refused_with_the_known_keys(toml):
    said = complaint(toml("[announcing]\nzzz = 1"))
    assert "unknown key announcing.zzz; known keys: also, confirm_seconds" in said


def test_website_message_is_refused_with_fedmsg(toml):
    also = '[announcing]\nalso = ["fedora-image-uploader"]'
    assert load(toml(f'bus = "fedora-messaging"\n{also}')).announcing.also
    for bus in ("", 'bus = ["fedmsg", "fedora-messaging"]\n'):
        assert "has a schema on fedora-messaging alone" in complaint(toml(f"{bus}{also}"))


@pytest.mark.parametrize(
    "origin", ["cn-north-1", "us-gov-west-1", "eusc-de-east-1", "il-central-1"]
)
def test_origin_may_be_of_any_partition_on_the_internet(toml, origin):
    assert load(toml(f"[ec2]\norigin = '{origin}'")).ec2.origin == origin


@pytest.mark.parametrize("origin", ["us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1"])
def test_origin_of_an_isolated_partition_is_refused(toml, origin):
    assert "cut off from the internet" in complaint(toml(f"[ec2]\norigin = '{origin}'"))


def test_name_pattern_without_its_groups_is_refused(toml):
    said = complaint(toml("[announcing]\nname_pattern = '-(?P<release>[0-9]+)-'"))
    assert "has no group (?P<subvariant>" in said


def test_pv_test_type_is_no_key_of_arm(toml):
    assert "ec2.aarch64.test_type_paravirtual" in complaint(
        toml("[ec2.aarch64]\ntest_type_paravirtual = 'm3.medium'")
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("site = ''", "site"),
        ("site = 'a b'", "site"),
        ("site = 5", "site"),
        ("koji = 'x'", "koji"),
        ("[koji]\nhub = 'koji.example.org'", "koji.hub"),
        ("[koji]\nname_patterns = ['(']", "koji.name_patterns.0"),
        ("[koji]\narchitectures = ['i386']", "koji.architectures.0"),
        ("[koji]\ntimeout = 0", "koji.timeout"),
        ("[ec2]\norigin = 'us east'", "ec2.origin"),
        ("[ec2.x86_64]\nutility_ami = 'Fedora'", "ec2.x86_64.utility_ami"),
        ("[ec2.network]\nsubnet = 'vpc-12345678'", "ec2.network.subnet"),
        ("[ec2.network]\nvpc = 'subnet-12345678'", "ec2.network.vpc"),
        ("[ec2.network]\naddress = 'both'", "ec2.network.address"),
        ("[ec2.network]\nssh_port = 70000", "ec2.network.ssh_port"),
        ("[ec2.network]\nallowed_source = 'my-laptop'", "ec2.network.allowed_source"),
        ("[ec2.network]\nallowed_source = '10.0.0.1/8'", "ec2.network.allowed_source"),
        ("[ec2.amis]\ntypes = []", "ec2.amis.types"),
        ("[ec2.amis]\ntypes = ['hvm-gp2', 'xen-gp2']", "ec2.amis.types.1"),
        ("[ec2.amis]\ntypes = [5]", "ec2.amis.types.0"),
        ("[ec2.amis]\ntpm = true", "ec2.amis"),
        ("[ec2.limits]\ncopy = -1", "ec2.limits.copy"),
        ("[ec2.limits]\nwait_minimum = 20", "ec2.limits"),
        ("[ec2.test]\nshipped = []", "the file"),
        ("[ec2.test]\nshipped = ['unit']", "ec2.test.shipped.0"),
        ("[ec2.test]\nreach = ['ftp://example.org']", "ec2.test.reach.0"),
        ("[retention]\nmost_a_day = 0", "retention.most_a_day"),
        ("[[retention.rules]]\npatterns = ['(']", "retention.rules.0.patterns.0"),
        ("[[retention.rules]]\narchitectures = ['arm64']", "retention.rules.0.architectures.0"),
        ("[[retention.rules]]\ndeprecate_after = 731", "retention.rules.0.deprecate_after"),
        ("[[retention.rules]]\ndelete_after = 50", "retention.rules.0"),
        ("[[retention.rules]]\ndisable_after = 5\ndelete_after = 18", "retention.rules.0"),
        ("[[retention.rules]]\ndisable_after = 5\ndeprecate_after = 6", "retention.rules.0"),
        ("[[retention.rules]]\nunused_for = 0", "retention.rules.0.unused_for"),
        ("[[retention]]\ndisable_after = 5", "retention"),
        ('[ec2.test]\nclock = "http://a/\\nb"', "ec2.test.clock"),
        ("[ec2.test]\nresolve = ['a b']", "ec2.test.resolve.0"),
        ("[[checks]]\nname = 'units'\ncommand = 'true'", "the file"),
        ("[[checks]]\nname = 'login'\ncommand = 'true'", "the file"),
        ("[[checks]]\nname = 'x'", "checks.0.command"),
        ("[[checks]]\nname = 'a\\nb'\ncommand = 'c'", "checks.0.name"),
        ("[[checks]]\nname = 'a'\ncommand = 'c'\noutput = '['", "checks.0.output"),
        ("[[checks]]\nname = 'a'\ncommand = 'c'\ntypes = ['xen']", "checks.0.types.0"),
        ("[[checks]]\nname = 'a'\ncommand = 'c'\ntypes = ['hvm-io2']", "checks.0.types.0"),
        (
            "[[checks]]\nname = 'a'\ncommand = 'c'\narchitectures = ['arm64']",
            "checks.0.architectures.0",
        ),
    ],
)
def test_wrong_value_is_reported_with_file_and_key(toml, text, key):
    path = toml(text)
    assert complaint(path).startswith(f"{path}: {key}: ")


def test_all_wrong_keys_are_reported_at_once(toml):
    said = complaint(toml("sight = 'x'\n[ec2]\norigin = ''\n[announcing]\nconfirm_seconds = 0"))
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize("source", ["0.0.0.0/0", "0.0.0.0/1", "::/0", "2000::/3"])
def test_instance_open_to_the_world_is_refused(toml, source):
    said = complaint(toml(f"[ec2.network]\nallowed_source = '{source}'"))
    assert "ec2.network.allowed_source" in said
    assert "most of the internet" in said


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("2001:db8::1", "2001:db8::1/128"),
    ],
)
def test_source_is_kept_as_a_range(toml, given, meant):
    settings = load(toml(f"[ec2.network]\nallowed_source = '{given}'"))
    assert settings.ec2.network.allowed_source == meant


def test_types_are_read_by_their_names(toml):
    settings = load(toml("[ec2.amis]\ntypes = ['hvm-gp3']"))
    assert settings.ec2.amis.types == [AMIType(HVM, "gp3")]


def test_copy_limit_is_spelt_copy(toml):
    assert load(toml("[ec2.limits]\ncopy = 5")).ec2.limits.copy_ == 5


def test_address_loses_its_last_slash(toml):
    assert load(toml("[koji]\ntopurl = 'http://k.org/x/'")).koji.topurl == "http://k.org/x"


def test_relative_state_directory_counts_from_the_file(toml, tmp_path, monkeypatch):
    path = toml("state_directory = 'state'")
    assert load(path).state_directory == tmp_path / "state"
    monkeypatch.chdir(tmp_path)
    assert load(Path("fedimg.toml")).state_directory == tmp_path / "state"


def test_absolute_state_directory_stays(toml):
    assert load(toml("state_directory = '/srv/fedimg'")).state_directory == Path("/srv/fedimg")


def test_file_is_named_by_the_environment(toml, monkeypatch):
    monkeypatch.setenv(config.PATH_VARIABLE, str(toml("site = 'lab'")))
    assert load().site == "lab"


def test_missing_file_says_how_to_name_another(tmp_path):
    said = complaint(tmp_path / "nowhere.toml")
    assert str(tmp_path / "nowhere.toml") in said
    assert "--config" in said
    assert config.PATH_VARIABLE in said


def test_file_that_cannot_be_read_now_may_be_readable_later():
    # The process's own memory has nothing at its beginning: an error of input and output.
    with pytest.raises(ConfigUnusableNow, match="Input/output error"):
        load(Path("/proc/self/mem"))


def test_directory_is_no_configuration(tmp_path):
    assert str(tmp_path) in complaint(tmp_path)


def test_invalid_toml_is_reported_with_its_line(toml):
    path = toml("site = \n")
    assert complaint(path).startswith(f"{path} is not valid TOML: ")
    assert "line 1" in complaint(path)


def test_file_that_is_no_text_is_reported(toml):
    path = toml("")
    path.write_bytes(b"site = '\xff'")
    assert complaint(path).startswith(f"{path} is not valid TOML: ")


@pytest.mark.process
def test_file_is_utf8_whatever_the_locale(toml):
    path = toml("[[checks]]\nname = 'greets'\ncommand = 'true'\noutput = 'Grüße'")
    script = "import sys, fedimg.config as c, pathlib; c.load(pathlib.Path(sys.argv[1]))"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, path], env={**os.environ, **plain}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().site = "x"


def test_limits_with_pauses_in_order_are_taken():
    assert Limits(wait_minimum=15, wait_maximum=15).wait_minimum == 15


def test_example_file_is_a_configuration():
    example = Path(__file__).parents[1] / "fedimg.toml.example"
    assert load(example).site


@pytest.mark.parametrize(
    ("types", "architectures", "meant"),
    [
        ([], [], {"x hvm-gp2", "x paravirtual-standard", "a hvm-gp2"}),
        (["hvm"], [], {"x hvm-gp2", "a hvm-gp2"}),
        (["gp2"], ["x86_64"], {"x hvm-gp2"}),
        (["paravirtual-standard", "gp3"], [], {"x paravirtual-standard"}),
        ([], ["aarch64"], {"a hvm-gp2"}),
    ],
)
def test_check_is_for_the_types_and_architectures_that_it_names(types, architectures, meant):
    check = Check(name="a", command="true", types=types, architectures=architectures)
    candidates = {
        "x hvm-gp2": (AMIType(HVM, "gp2"), Architecture.X86_64),
        "x paravirtual-standard": (AMIType(PV, "standard"), Architecture.X86_64),
        "a hvm-gp2": (AMIType(HVM, "gp2"), Architecture.ARM64),
    }
    assert {name for name, ami in candidates.items() if check.applies(*ami)} == meant


def test_old_key_of_the_bus_is_reported_with_its_new_name(toml):
    said = complaint(toml("[bus]\nconfirm_seconds = 5"))
    assert "move confirm_seconds to [announcing]" in said


@pytest.mark.parametrize(
    ("text", "buses"),
    [
        ('bus = "fedmsg"', ["fedmsg"]),
        ('bus = "fedora-messaging"', ["fedora-messaging"]),
        ('bus = ["fedmsg", "fedora-messaging"]', ["fedmsg", "fedora-messaging"]),
    ],
)
def test_bus_is_one_or_both(toml, text, buses):
    assert config.load(toml(text)).bus == buses


@pytest.mark.parametrize("text", ['bus = "zeromq"', "bus = []"])
def test_unknown_buses_are_refused(toml, text):
    assert "bus" in complaint(toml(text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("disable_after = 5\ndelete_after = 18", "delete_after has to be 19 or more"),
        ("delete_after = 18", "delete_after needs disable_after"),
    ],
)
def test_removal_follows_the_disabling_by_two_weeks(toml, text, told):
    assert told in complaint(toml(f"[[retention.rules]]\n{text}"))
    config.load(toml("[[retention.rules]]\ndisable_after = 5\ndelete_after = 19"))


def test_rules_of_retention_have_a_table_of_their_own(toml):
    said = complaint(toml("[[retention]]\ndisable_after = 5"))
    assert "write each rule as [[retention.rules]]" in said


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/fedora/{release}/{type}", "lacks {arch}"),
        (
            "/fedora/{release}/{arch}/{type}/{build}",
            "has the field {build}; known fields are arch,",
        ),
        ("/fedora/{release}/{arch}/{type!r}", "has a field with a format"),
        ("/fedora/{release}/{arch}/{type", "has a brace"),
        ("fedora/{release}/{arch}/{type}", "does not begin with a slash"),
        ("/fedora/{release}/{arch}/{type}/", "does not begin with a slash, ends in one"),
        ("/fedora//{release}/{arch}/{type}", "has two in a row"),
        ("/fedora cloud/{release}/{arch}/{type}", "other than letters, digits"),
        ("/AWS/{release}/{arch}/{type}", "AWS keeps to itself"),
        ("/ssm-fedora/{release}/{arch}/{type}", "AWS keeps to itself"),
        ("/a" * 13 + "/{release}/{arch}/{type}", "over 15 levels"),
        ("/" + "a" * 860 + "/{release}/{arch}/{type}", "characters"),
    ],
)
def test_path_of_parameters_that_ssm_would_refuse(toml, path: str, words: str) -> None:
    text = complaint(toml(f'[ec2.ssm]\npath = "{path}"\n'))
    assert "ec2.ssm.path: " in text
    assert words in text


@pytest.mark.parametrize(
    "path",
    ["", "/fedora/{release}/{arch}/{type}/latest", "/f/{kind}/{series}.{release}/{arch}-{type}"],
)
def test_path_of_parameters(toml, path: str) -> None:
    assert load(toml(f'[ec2.ssm]\npath = "{path}"\n')).ec2.ssm.path == path


STORE = base64.b64encode(b"AMZNUEFI" + bytes(24)).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gp3_throughput = 1000", "needs gp3_iops = 4000 or more"),
        ("gp3_iops = 90000", "less than or equal to 80000"),
        ('uefi_data = "store"', 'uefi_data needs boot_mode = "uefi"'),
        ('boot_mode = "uefi"\nuefi_data = "none"', "ec2.amis.uefi_data: cannot read"),
        ('boot_mode = "uefi"\nuefi_data = "no-base64"', "is no base64 text"),
        ('boot_mode = "uefi"\nuefi_data = "other"', "is no UEFI variable store of EC2's"),
        ('boot_mode = "uefi"\nuefi_data = "long"', "has over 64000 characters"),
        ('supported_instance_types = { x86_64 = ["t3.**"] }', "two asterisks in a row"),
        ('supported_instance_types = { x86_64 = ["t3 nano"] }', "should match pattern"),
        ('supported_instance_types = { i386 = ["t3.*"] }', "supported_instance_types.i386"),
        (
            'supported_instance_types = { arm64 = ["t4g.*"] }\n'
            'unsupported_instance_types = { arm64 = ["t4g.*"] }',
            "t4g.* of arm64 AMIs is named twice",
        ),
        ('supported_instance_types = { x86_64 = ["m5.*"] }', "x86_64 AMIs on t3.small, on which"),
        ('unsupported_instance_types = { paravirtual = ["m3.*"] }', "AMIs on m3.medium"),
    ],
)
def test_options_of_amis_that_ec2_would_refuse(toml, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "store").write_text(STORE)
    (tmp_path / "no-base64").write_text("?")
    (tmp_path / "other").write_text(base64.b64encode(b"something").decode())
    (tmp_path / "long").write_text(STORE * 2000)
    assert words in complaint(toml(f"[ec2.amis]\n{text}\n"))


def test_uefi_data_is_found_beside_the_configuration(toml, tmp_path: Path) -> None:
    (tmp_path / "store").write_text(f"{STORE}\n")
    found = load(toml('[ec2.amis]\nboot_mode = "uefi"\nuefi_data = "store"\n'))
    assert found.ec2.amis.uefi_data == tmp_path / "store"


ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-exampleorg1"
UNIT = "arn:aws:organizations::123456789012:ou/o-exampleorg1/ou-exam-12345678"


def test_amis_are_public_and_shared_with_nobody_unless_it_is_set() -> None:
    assert Settings().ec2.public
    assert not Settings().ec2.share.audience


def test_audience_has_accounts_organizations_and_their_units(toml) -> None:
    text = f"""
        [ec2]
        public = false
        [ec2.share]
        accounts = ["123456789012", "012345678901"]
        organizations = ["{ORGANIZATION}"]
        organizational_units = ["{UNIT}"]
    """
    audience = load(toml(text)).ec2.share.audience
    assert str(audience) == "2 accounts, 1 organization and 1 organizational unit"
    assert len(audience) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('accounts = ["12345678901"]', "12345678901 is not an account's id, which has 12 digits"),
        ('accounts = ["all"]', "is not an account's id"),
        ('accounts = ["123456789012", "123456789012"]', "accounts names 123456789012 twice"),
        (f'organizations = ["{UNIT}"]', "is not the ARN of an organization, such as arn:aws:org"),
        ('organizations = ["o-exampleorg1"]', "is not the ARN of an organization"),
        (f'organizational_units = ["{ORGANIZATION}"]', "not the ARN of an organizational unit"),
        (
            f'organizations = ["{ORGANIZATION.replace("aws:", "aws-cn:", 1)}"]',
            "is in another partition than ec2.origin, which is in aws",
        ),
    ],
)
def test_audience_that_ec2_would_refuse(toml, text: str, words: str) -> None:
    assert words in complaint(toml(f"[ec2.share]\n{text}\n"))


def test_audience_is_in_the_partition_of_the_origin(toml) -> None:
    chinese = ORGANIZATION.replace("aws:", "aws-cn:", 1)
    text = f'[ec2]\norigin = "cn-north-1"\n[ec2.share]\norganizations = ["{chinese}"]\n'
    assert load(toml(text)).ec2.share.audience.organizations == (chinese,)


MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
ARN = f"arn:aws:kms:us-east-1:111122223333:key/{MRK}"
ONE = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ENCRYPTED = '[ec2.amis]\ntypes = ["hvm-gp3", "hvm-gp3-encrypted"]\n[ec2.encryption]\n'


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (f'key = "{MRK}"', [MRK, MRK]),
        (f'key = "{ARN}"', [ARN, ARN.replace("us-east-1", "eu-west-1")]),
        ('key = "alias/fedimg"', ["alias/fedimg"] * 2),
        (f'key = "{MRK}"\nkeys = {{ "eu-west-1" = "{ONE}" }}', [MRK, ONE]),
        (f'keys = {{ "us-east-1" = "{ARN}" }}', [ARN, ""]),
    ],
)
def test_key_of_each_region_is_told_by_the_settings(toml, text, keys):
    encryption = load(toml(ENCRYPTED + text)).ec2.encryption
    assert [encryption.key_in(region) for region in ("us-east-1", "eu-west-1")] == keys


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "need a KMS key in us-east-1"),
        ('key = "1234"', "is not the id, the ARN or the alias"),
        ('key = "alias/aws/ebs"', "is a key that AWS manages"),
        (f'key = "{ONE}"', "is a key of one region"),
        (f'keys = {{ "us-east-1" = "{ONE}" }}', "names a key of eu-west-1 for us-east-1"),
        (f'key = "{MRK}"\n[ec2]\nzero_blocks = "skip"', 'need zero_blocks = "write"'),
        (
            f'keys = {{ "us-east-1" = "{MRK}" }}\n[ec2]\nregions = ["us-east-1", "eu-west-1"]',
            "need a KMS key in eu-west-1",
        ),
    ],
)
def test_keys_with_which_nothing_can_be_encrypted_or_shared_are_refused(toml, text, words):
    # A table may not come after its own parts.
    first, _, rest = text.partition("[ec2]")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(toml(f"[ec2]\n{rest}\n{ENCRYPTED}{first}"))


def test_encrypted_types_alone_are_refused(toml):
    text = f'[ec2.amis]\ntypes = ["hvm-gp3-encrypted"]\n[ec2.encryption]\nkey = "{MRK}"'
    with pytest.raises(ConfigError, match="has encrypted types alone"):
        load(toml(text))
