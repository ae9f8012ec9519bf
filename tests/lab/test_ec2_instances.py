"""RunInstances' rules, the states an instance goes through, and what its machine is told."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lab.ec2.regions import KERNEL_REGIONS
from lab.ec2.states import Delays

ONE = {"MinCount": 1, "MaxCount": 1}


def run(client: Any, image: str, **params: Any) -> dict[str, Any]:
    asked = {"ImageId": image, "InstanceType": "t3.small", **ONE, **params}
    instance: dict[str, Any] = client.run_instances(**asked)["Instances"][0]
    return instance


def wait(client: Any, name: str, instance_id: str) -> None:
    waiter = client.get_waiter(name)
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(InstanceIds=[instance_id])


def shown(client: Any, instance_id: str) -> dict[str, Any]:
    found = client.describe_instances(InstanceIds=[instance_id])["Reservations"]
    instance: dict[str, Any] = found[0]["Instances"][0]
    return instance


def refusal(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_instance_goes_through_its_states(ec2: Any, utility: str) -> None:
    client = ec2.client()
    made = run(client, utility)
    id = made["InstanceId"]
    assert made["State"]["Name"] == "pending"
    assert "PublicIpAddress" not in made
    wait(client, "instance_running", id)
    running = shown(client, id)
    assert running["PublicIpAddress"] == running["PrivateIpAddress"] == ec2.machines.address(id)
    client.stop_instances(InstanceIds=[id])
    assert shown(client, id)["State"]["Name"] == "stopping"
    wait(client, "instance_stopped", id)
    assert "PublicIpAddress" not in shown(client, id)
    client.start_instances(InstanceIds=[id])
    wait(client, "instance_running", id)
    client.reboot_instances(InstanceIds=[id])
    client.terminate_instances(InstanceIds=[id])
    assert shown(client, id)["State"]["Name"] == "shutting-down"
    wait(client, "instance_terminated", id)
    assert "PrivateIpAddress" not in shown(client, id)
    told = [what for what, who in ec2.machines.told if who == id]
    assert told == ["start", "stop", "start", "reboot", "terminate"]


def test_terminated_instance_is_forgotten_after_a_while(start: Any, tmp_path: Any) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x")
    site = start(delays=Delays(instance_terminate=0.05, instance_forgotten=0.2))
    client = site.client()
    id = run(client, site.ec2.default_image("us-east-1", raw, name="utility"))["InstanceId"]
    client.terminate_instances(InstanceIds=[id])
    wait(client, "instance_terminated", id)
    time.sleep(0.4)
    assert refusal(client.describe_instances, InstanceIds=[id]) == "InvalidInstanceID.NotFound"


def test_volumes_hold_the_images_bytes_and_end_with_the_instance(ec2: Any, utility: str) -> None:
    client = ec2.client()
    extra = {"VolumeSize": 3, "VolumeType": "gp3", "DeleteOnTermination": False}
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "job", "Value": "7"}]}]
    mappings = [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 2}},
        {"DeviceName": "/dev/sdf", "Ebs": extra},
    ]
    id = run(client, utility, BlockDeviceMappings=mappings, TagSpecifications=tags)["InstanceId"]
    root, data = ec2.machines.launches[id].disks
    assert root.root
    assert not data.root
    with root.path.open("rb") as file:
        assert file.read(4) == b"boot"
    assert (root.path.stat().st_size, data.path.stat().st_size) == (2 << 30, 3 << 30)
    wanted = [{"Name": "tag:job", "Values": ["7"]}]
    assert len(client.describe_volumes(Filters=wanted)["Volumes"]) == 2
    client.terminate_instances(InstanceIds=[id])
    wait(client, "instance_terminated", id)
    left = client.describe_volumes(Filters=wanted)["Volumes"]
    assert [(v["VolumeId"], v["State"]) for v in left] == [(data.volume_id, "available")]
    assert not root.path.exists()


def test_machine_gets_the_properties_of_its_launch(ec2: Any, utility: str) -> None:
    client = ec2.client()
    client.create_key_pair(KeyName="ours", KeyType="ed25519")
    id = run(
        client,
        utility,
        KeyName="ours",
        UserData="#cloud-config\n",
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
    )["InstanceId"]
    launch = ec2.machines.launches[id]
    assert launch.user_data == b"#cloud-config\n"
    assert launch.public_key.startswith("ssh-ed25519 ")
    assert (launch.architecture, launch.boot_mode) == ("x86_64", "legacy-bios")
    assert shown(client, id)["MetadataOptions"]["HttpTokens"] == "required"
    attribute = client.describe_instance_attribute(InstanceId=id, Attribute="userData")
    assert base64.b64decode(attribute["UserData"]["Value"]) == b"#cloud-config\n"
    output = client.get_console_output(InstanceId=id)["Output"]
    assert output == f"console of {id}\n"


def test_security_group_admits_at_the_time_of_the_connection(ec2: Any, utility: str) -> None:
    client = ec2.client()
    group = client.create_security_group(GroupName="ssh", Description="d")["GroupId"]
    id = run(client, utility, SecurityGroupIds=[group])["InstanceId"]
    admits = ec2.machines.launches[id].admits
    assert not admits("127.0.0.1", 22)
    rule = [
        {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [{"CidrIp": "127.0.0.1/32"}],
        }
    ]
    client.authorize_security_group_ingress(GroupId=group, IpPermissions=rule)
    assert admits("127.0.0.1", 22)
    assert not admits("127.0.0.1", 80)
    assert not admits("127.0.0.2", 22)
    client.revoke_security_group_ingress(GroupId=group, IpPermissions=rule)
    assert not admits("127.0.0.1", 22)


def test_group_in_use_is_not_deleted(ec2: Any, utility: str) -> None:
    client = ec2.client()
    group = client.create_security_group(GroupName="ssh", Description="d")["GroupId"]
    id = run(client, utility, SecurityGroupIds=[group])["InstanceId"]
    assert refusal(client.delete_security_group, GroupId=group) == "DependencyViolation"
    client.terminate_instances(InstanceIds=[id])
    assert refusal(client.delete_security_group, GroupId=group) == "DependencyViolation"
    wait(client, "instance_terminated", id)
    client.delete_security_group(GroupId=group)
    assert refusal(client.delete_security_group, GroupId=group) == "InvalidGroup.NotFound"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"InstanceType": "t9.huge"}, "InvalidParameterValue"),
        ({"InstanceType": "t4g.small"}, "InvalidParameterValue"),  # arm64
        ({"KeyName": "nobody's"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterCombination"),
        ({"Placement": {"AvailabilityZone": "mars-1a"}}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"IamInstanceProfile": {"Name": "none"}}, "InvalidParameterValue"),
        ({"TagSpecifications": [{"ResourceType": "image", "Tags": [{"Key": "a", "Value": "b"}]}]},
         "InvalidParameterValue"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeType": "x1"}}]},
         "InvalidParameterValue"),
    ],
)  # fmt: skip
def test_impossible_launch_is_refused_and_leaves_nothing(
    ec2: Any, utility: str, params: dict[str, Any], code: str
) -> None:
    client = ec2.client()
    asked = {"ImageId": utility, "InstanceType": "t3.small", **ONE, **params}
    assert refusal(client.run_instances, **asked) == code
    assert client.describe_volumes()["Volumes"] == []
    assert client.describe_instances()["Reservations"] == []


def test_nitro_types_need_ena_and_hvm(ec2: Any, tmp_path: Any) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x")
    old = ec2.ec2.default_image("us-east-1", raw, name="no-ena", ena=False)
    pv = ec2.ec2.default_image("us-east-1", raw, name="pv", virtualization_type="paravirtual")
    client = ec2.client()
    for kind in ("t3.small", "m5.large", "c5.large"):
        for image in (old, pv):
            asked = {"ImageId": image, "InstanceType": kind, **ONE}
            assert refusal(client.run_instances, **asked) == "InvalidParameterCombination"
    run(client, old, InstanceType="m3.medium")


@pytest.mark.parametrize("kind", ["m3.medium", "c3.large"])
def test_old_types_boot_paravirtual_in_all_regions_with_kernels(
    ec2: Any, tmp_path: Any, kind: str
) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"x")
    for region in KERNEL_REGIONS:
        image = ec2.ec2.default_image(region, raw, name="pv", virtualization_type="paravirtual")
        id = run(ec2.client(region=region), image, InstanceType=kind)["InstanceId"]
        assert ec2.machines.launches[id].virtualization_type == "paravirtual"


@pytest.mark.parametrize(("kind", "mib"), [("t3.nano", 512), ("t3.small", 2048)])
def test_machine_has_its_types_memory(ec2: Any, utility: str, kind: str, mib: int) -> None:
    id = run(ec2.client(), utility, InstanceType=kind)["InstanceId"]
    assert ec2.machines.launches[id].memory_mib == mib


def test_same_token_is_the_same_reservation_whatever_its_state(ec2: Any, utility: str) -> None:
    client = ec2.client()
    asked = {"ImageId": utility, "InstanceType": "t3.small", **ONE, "ClientToken": "attempt-1"}
    first = client.run_instances(**asked)
    id = first["Instances"][0]["InstanceId"]
    again = client.run_instances(**asked)
    assert again["ReservationId"] == first["ReservationId"]
    client.terminate_instances(InstanceIds=[id])
    wait(client, "instance_terminated", id)
    late = client.run_instances(**asked)["Instances"]
    assert [(i["InstanceId"], i["State"]["Name"]) for i in late] == [(id, "terminated")]
    changed = {**asked, "UserData": "other"}
    assert refusal(client.run_instances, **changed) == "IdempotentParameterMismatch"
    assert len(ec2.machines.launches) == 1


def test_failed_launch_frees_its_token(ec2: Any, utility: str) -> None:
    client = ec2.client()
    asked = {"ImageId": utility, "InstanceType": "t3.small", **ONE, "ClientToken": "t"}
    assert refusal(client.run_instances, **asked, KeyName="ours") == "InvalidKeyPair.NotFound"
    client.create_key_pair(KeyName="ours")
    client.run_instances(**asked, KeyName="ours")


def test_volume_token_is_one_volume(ec2: Any) -> None:
    client = ec2.client()
    asked = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "v"}
    assert client.create_volume(**asked)["VolumeId"] == client.create_volume(**asked)["VolumeId"]
    asked["Size"] = 2
    assert refusal(client.create_volume, **asked) == "IdempotentParameterMismatch"


def test_private_subnet_gives_no_public_address(ec2: Any, utility: str) -> None:
    client = ec2.client()
    interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": False}
    id = run(client, utility, NetworkInterfaces=[interface])["InstanceId"]
    wait(client, "instance_running", id)
    assert "PublicIpAddress" not in shown(client, id)
    vpc = client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = client.create_subnet(
        VpcId=vpc, CidrBlock="10.9.1.0/24", AvailabilityZone="us-east-1b"
    )["Subnet"]["SubnetId"]
    id = run(client, utility, SubnetId=subnet)["InstanceId"]
    wait(client, "instance_running", id)
    there = shown(client, id)
    assert "PublicIpAddress" not in there
    assert (there["VpcId"], there["Placement"]["AvailabilityZone"]) == (vpc, "us-east-1b")


def test_instances_are_found_by_filters(ec2: Any, utility: str) -> None:
    client = ec2.client()
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "fedimg:job", "Value": "7"}]}]
    id = run(client, utility, TagSpecifications=tags, ClientToken="tok")["InstanceId"]
    wait(client, "instance_running", id)
    for name, value in (
        ("tag:fedimg:job", "7"),
        ("instance-state-name", "running"),
        ("client-token", "tok"),
        ("image-id", utility),
    ):
        found = client.describe_instances(Filters=[{"Name": name, "Values": [value]}])
        assert [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]] == [id]
    none = client.describe_instances(Filters=[{"Name": "tag:fedimg:job", "Values": ["8"]}])
    assert none["Reservations"] == []
    status = client.describe_instance_status(InstanceIds=[id])["InstanceStatuses"][0]
    assert status["InstanceStatus"]["Status"] == "ok"


def test_an_instance_that_does_not_answer_is_impaired_after_a_while(ec2: Any, utility: str) -> None:
    client = ec2.client()
    id = run(client, utility)["InstanceId"]
    ec2.machines.silent.add(id)
    wait(client, "instance_running", id)
    seen = []
    deadline = time.monotonic() + 240
    while "impaired" not in seen and time.monotonic() < deadline:
        (row,) = client.describe_instance_status(InstanceIds=[id])["InstanceStatuses"]
        seen.append(row["InstanceStatus"]["Status"])
        assert row["SystemStatus"]["Status"] == "ok"
        time.sleep(0.1)
    assert list(dict.fromkeys(seen)) == ["initializing", "impaired"]


def test_the_latest_console_is_for_nitro_types_alone(ec2: Any, utility: str) -> None:
    client = ec2.client()
    latest, older = (
        run(client, utility, InstanceType=kind)["InstanceId"] for kind in ("t3.small", "m3.medium")
    )
    shown = client.get_console_output(InstanceId=latest, Latest=True)
    assert shown["Output"] == f"console of {latest}\n"
    assert refusal(client.get_console_output, InstanceId=older, Latest=True) == (
        "UnsupportedOperation"
    )
    assert client.get_console_output(InstanceId=older)["Output"] == f"console of {older}\n"


def test_protected_instance_is_not_terminated(ec2: Any, utility: str) -> None:
    client = ec2.client()
    id = run(client, utility, DisableApiTermination=True)["InstanceId"]
    assert refusal(client.terminate_instances, InstanceIds=[id]) == "OperationNotPermitted"
    client.modify_instance_attribute(InstanceId=id, DisableApiTermination={"Value": False})
    client.terminate_instances(InstanceIds=[id])


def test_launch_template_adds_to_the_call(ec2: Any, utility: str) -> None:
    client = ec2.client()
    client.create_launch_template(
        LaunchTemplateName="ours",
        LaunchTemplateData={"ImageId": utility, "InstanceType": "t3.small"},
    )
    template = {"LaunchTemplateName": "ours"}
    made = client.run_instances(LaunchTemplate=template, InstanceType="t3.large", **ONE)
    instance = made["Instances"][0]
    assert (instance["ImageId"], instance["InstanceType"]) == (utility, "t3.large")


def test_image_of_an_instance_has_all_its_volumes(ec2: Any, utility: str) -> None:
    client = ec2.client()
    more = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 2}}]
    id = run(client, utility, BlockDeviceMappings=more)["InstanceId"]
    wait(client, "instance_running", id)
    image = client.create_image(InstanceId=id, Name="of-an-instance")["ImageId"]
    waiter = client.get_waiter("image_available")
    waiter.config.delay, waiter.config.max_attempts = 0.05, 4000
    waiter.wait(ImageIds=[image])
    mappings = client.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    sizes = {m["DeviceName"]: m["Ebs"]["VolumeSize"] for m in mappings}
    assert sizes == {"/dev/sda1": 1, "/dev/sdf": 2}


def test_interface_and_subnet_are_in_use_with_the_instance(ec2: Any, utility: str) -> None:
    client = ec2.client()
    id = run(client, utility)["InstanceId"]
    wanted = [{"Name": "attachment.instance-id", "Values": [id]}]
    (interface,) = client.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]
    assert interface["PrivateIpAddress"] == ec2.machines.address(id)
    assert refusal(client.delete_subnet, SubnetId=interface["SubnetId"]) == "DependencyViolation"
    client.terminate_instances(InstanceIds=[id])
    wait(client, "instance_terminated", id)
    assert client.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"] == []


def test_same_token_at_once_is_one_instance(ec2: Any, utility: str) -> None:
    client = ec2.client()
    asked = {"ImageId": utility, "InstanceType": "t3.small", **ONE, "ClientToken": "t"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.run_instances(**asked), range(8)))
    assert len({answer["Instances"][0]["InstanceId"] for answer in answers}) == 1
    assert len(client.describe_volumes()["Volumes"]) == 1
    assert [what for what, _ in ec2.machines.told] == ["start"]
