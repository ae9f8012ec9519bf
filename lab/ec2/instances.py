"""Instances that exist: started, stopped, rebooted, terminated, and heard on their console."""

import base64
import threading
from typing import Any

from lab.ec2 import disks as files
from lab.ec2 import network
from lab.ec2.errors import EC2Error, missing
from lab.ec2.faults import FAILED
from lab.ec2.instance_rows import named, state
from lab.ec2.instance_types import current_boot_mode, known
from lab.ec2.volumes import attached_to
from lab.ec2.world import Call, Instance, World, now
from lab.machines import Disk, Launch
from lab.machines.devices import on_nitro

USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")


def power_on(world: World, instance: Instance) -> None:
    """Start the machine of a pending instance, which runs when its time has come.

    The caller does not hold the lock.
    """
    with world.lock:
        if instance.state != "pending":
            return
        instance.reason, instance.transition = None, ""
        instance.generation += 1
        generation = instance.generation
        launch = launch_of(world, instance)
    with instance.power:
        # Who came between and terminated it has already ended the machine.
        if instance.generation == generation:
            world.machines.start(launch)

    def running() -> None:
        if instance.generation != generation:
            return
        if fault := world.faults.completing("InstanceStart", instance.region):
            if fault.fault == FAILED:
                withdraw(world, instance, fault.message)
            return
        if instance.key_problem:
            withdraw(world, instance, "Client error on launch", "Client.InternalError")
            return
        instance.state = "running"
        if instance.public:
            network.set_public(world, instance, instance.address)

    world.timeline.after(world.delays.instance_start, running)


def withdraw(
    world: World, instance: Instance, message: str, code: str = "Server.InternalError"
) -> None:
    """End an instance for a reason of EC2's. The caller holds the lock, the machine's end waits."""
    instance.state = "shutting-down"
    instance.generation += 1
    instance.reason = (code, f"{code}: {message}")

    def end() -> None:
        try:
            with instance.power:
                world.machines.terminate(instance.id)
        finally:
            _later_terminated(world, instance)

    threading.Thread(target=end, name=f"withdraw-{instance.id}", daemon=True).start()


def launch_of(world: World, instance: Instance) -> Launch:
    root = instance.image.root_device
    disks = []
    if instance.root_disk and root:
        disks.append(Disk(f"store-{instance.id[2:]}", instance.root_disk, root, True))
    for volume in attached_to(world, instance.id):
        assert volume.attachment
        device = volume.attachment.device
        disks.append(Disk(volume.id, volume.path, device, device == root))
    return Launch(
        instance_id=instance.id,
        instance_type=instance.type,
        region=instance.region,
        architecture=instance.image.architecture,
        virtualization_type=instance.image.virtualization,
        boot_mode=current_boot_mode(instance.type, instance.image),
        disks=disks,
        user_data=instance.user_data,
        key_name=instance.key_name,
        public_key=instance.public_key,
        admits=network.admits(world, instance),
        strikes=lambda moment: world.faults.at_machine(moment, instance.region),
        memory_mib=known(instance.type)["MemoryInfo"]["SizeInMiB"],
    )


def start_instances(call: Call) -> dict[str, Any]:
    world, changes, starting = call.world, [], []
    with world.lock:
        chosen = _wanted(call)
        for instance in chosen:
            if instance.state not in ("stopped", "running", "pending"):
                raise _cannot(instance, "started")
        for instance in chosen:
            before = instance.state
            if before == "stopped":
                instance.state, instance.launched = "pending", now()
                starting.append(instance)
            changes.append(_change(instance, before))
    for instance in starting:
        power_on(world, instance)
    return {"StartingInstances": changes}


def stop_instances(call: Call) -> dict[str, Any]:
    world, changes, stopping = call.world, [], []
    with world.lock:
        chosen = _wanted(call)
        for instance in chosen:
            if instance.image.manifest:
                raise EC2Error(
                    "UnsupportedOperation",
                    f"The instance '{instance.id}' does not have an 'ebs' root device type and "
                    "cannot be stopped",
                )
            if instance.state not in ("running", "stopping", "stopped"):
                raise _cannot(instance, "stopped")
            if instance.stop_protected:
                raise EC2Error(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be stopped. Modify its "
                    "'disableApiStop' instance attribute and try again.",
                )
        for instance in chosen:
            before = instance.state
            if before == "running":
                instance.state = "stopping"
                instance.generation += 1
                stopping.append((instance, instance.generation))
                _by_user(instance)
                network.set_public(world, instance, None)
            changes.append(_change(instance, before))
    for instance, generation in stopping:
        with instance.power:
            world.machines.stop(instance.id)
        _later_stopped(world, instance, generation)
    return {"StoppingInstances": changes}


def _later_stopped(world: World, instance: Instance, generation: int) -> None:
    def stopped() -> None:
        if instance.generation == generation:
            instance.state = "stopped"

    world.timeline.after(world.delays.instance_stop, stopped)


def reboot_instances(call: Call) -> dict[str, Any]:
    with call.world.lock:
        chosen = _wanted(call)
        for instance in chosen:
            if instance.state != "running":
                raise _cannot(instance, "rebooted")
    for instance in chosen:
        with instance.power:
            call.world.machines.reboot(instance.id)
    return {}


def terminate_instances(call: Call) -> dict[str, Any]:
    world, changes, ending = call.world, [], []
    with world.lock:
        chosen = _wanted(call)
        for instance in chosen:
            if instance.protected:
                raise EC2Error(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its "
                    "'disableApiTermination' instance attribute and try again.",
                )
        for instance in chosen:
            before = instance.state
            if before not in ("shutting-down", "terminated"):
                instance.state = "shutting-down"
                instance.generation += 1
                _by_user(instance)
                ending.append(instance)
            changes.append(_change(instance, before))
    for instance in ending:
        try:
            with instance.power:
                world.machines.terminate(instance.id)
        finally:
            _later_terminated(world, instance)
    return {"TerminatingInstances": changes}


def _later_terminated(world: World, instance: Instance) -> None:
    def terminated() -> None:
        instance.state = "terminated"
        world.gone("instance", instance)
        network.unplug(world, instance)
        if instance.root_disk:
            files.remove(instance.root_disk)
        for volume in attached_to(world, instance.id):
            assert volume.attachment
            kept = not volume.attachment.delete_on_termination
            volume.attachment = None
            volume.state = "available"
            if not kept:
                world.remove_volume(volume)
        world.timeline.after(world.delays.instance_forgotten, forgotten)

    def forgotten() -> None:
        world.instances.pop(instance.id, None)
        world.moto(instance.owner, instance.region).tags.pop(instance.id, None)

    world.timeline.after(world.delays.instance_terminate, terminated)


def _by_user(instance: Instance) -> None:
    instance.reason = USER
    instance.transition = f"User initiated ({now():%Y-%m-%d %H:%M:%S} GMT)"


def _wanted(call: Call) -> list[Instance]:
    ids = call.params.get("InstanceIds", [])
    if not ids:
        raise missing("InstanceId")
    return named(call, ids)


def _cannot(instance: Instance, verb: str) -> EC2Error:
    return EC2Error(
        "IncorrectInstanceState",
        f"The instance '{instance.id}' is not in a state from which it can be {verb}.",
    )


def _change(instance: Instance, before: str) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "CurrentState": state(instance.state),
        "PreviousState": state(before),
    }


def get_console_output(call: Call) -> dict[str, Any]:
    instance = call.instance(call.params["InstanceId"])
    if call.params.get("Latest") and not on_nitro(instance.type):
        raise EC2Error(
            "UnsupportedOperation",
            "This instance type does not support retrieving the latest console logs. Supported "
            "instance types can be found in documentation page.",
        )
    text = call.world.machines.console(instance.id)
    return {
        "InstanceId": instance.id,
        "Timestamp": now(),
        # EC2 keeps the last 64 KB.
        "Output": base64.b64encode(text.encode()[-65536:]).decode(),
    }


OPERATIONS = {
    "GetConsoleOutput": get_console_output,
}

# Machines may take a moment to end, so these hold the lock only around their own states.
UNLOCKED = {
    "RebootInstances": reboot_instances,
    "StartInstances": start_instances,
    "StopInstances": stop_instances,
    "TerminateInstances": terminate_instances,
}
