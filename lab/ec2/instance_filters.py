"""The filters of DescribeInstances and DescribeInstanceStatus: which field of a row each of them
looks at.
"""

from lab.ec2 import filters

FILTERS = {
    "architecture": filters.field("Architecture"),
    "availability-zone": filters.field("Placement", "AvailabilityZone"),
    "block-device-mapping.attach-time": filters.field("BlockDeviceMappings", "Ebs", "AttachTime"),
    "block-device-mapping.delete-on-termination": filters.field(
        "BlockDeviceMappings", "Ebs", "DeleteOnTermination"
    ),
    "block-device-mapping.device-name": filters.field("BlockDeviceMappings", "DeviceName"),
    "block-device-mapping.status": filters.field("BlockDeviceMappings", "Ebs", "Status"),
    "block-device-mapping.volume-id": filters.field("BlockDeviceMappings", "Ebs", "VolumeId"),
    "boot-mode": filters.field("BootMode"),
    "client-token": filters.field("ClientToken"),
    "current-instance-boot-mode": filters.field("CurrentInstanceBootMode"),
    "dns-name": filters.field("PublicDnsName"),
    "group-id": filters.field("SecurityGroups", "GroupId"),
    "group-name": filters.field("SecurityGroups", "GroupName"),
    "hypervisor": filters.field("Hypervisor"),
    "iam-instance-profile.arn": filters.field("IamInstanceProfile", "Arn"),
    "image-id": filters.field("ImageId"),
    "instance-id": filters.field("InstanceId"),
    "instance-lifecycle": filters.field("InstanceLifecycle"),
    "instance-state-code": filters.field("State", "Code"),
    "instance-state-name": filters.field("State", "Name"),
    "instance-type": filters.field("InstanceType"),
    "instance.group-id": filters.field("SecurityGroups", "GroupId"),
    "instance.group-name": filters.field("SecurityGroups", "GroupName"),
    "ip-address": filters.field("PublicIpAddress"),
    "kernel-id": filters.field("KernelId"),
    "key-name": filters.field("KeyName"),
    "launch-index": filters.field("AmiLaunchIndex"),
    "launch-time": filters.field("LaunchTime"),
    "metadata-options.http-endpoint": filters.field("MetadataOptions", "HttpEndpoint"),
    "metadata-options.http-tokens": filters.field("MetadataOptions", "HttpTokens"),
    "monitoring-state": filters.field("Monitoring", "State"),
    "network-interface.network-interface-id": filters.field(
        "NetworkInterfaces", "NetworkInterfaceId"
    ),
    "owner-id": filters.field("OwnerId"),
    "private-dns-name": filters.field("PrivateDnsName"),
    "private-ip-address": filters.field("PrivateIpAddress"),
    "reservation-id": filters.field("ReservationId"),
    "root-device-name": filters.field("RootDeviceName"),
    "root-device-type": filters.field("RootDeviceType"),
    "state-reason-code": filters.field("StateReason", "Code"),
    "subnet-id": filters.field("SubnetId"),
    "tenancy": filters.field("Placement", "Tenancy"),
    "tpm-support": filters.field("TpmSupport"),
    "virtualization-type": filters.field("VirtualizationType"),
    "vpc-id": filters.field("VpcId"),
    "network-interface.subnet-id": filters.field("SubnetId"),
    "network-interface.vpc-id": filters.field("VpcId"),
    "affinity": filters.field("Placement", "Affinity"),
    "ebs-optimized": filters.field("EbsOptimized"),
    "ena-support": filters.field("EnaSupport"),
    "enclave-options.enabled": filters.field("EnclaveOptions", "Enabled"),
    "hibernation-options.configured": filters.field("HibernationOptions", "Configured"),
    "iam-instance-profile.id": filters.field("IamInstanceProfile", "Id"),
    "maintenance-options.auto-recovery": filters.field("MaintenanceOptions", "AutoRecovery"),
    "metadata-options.http-protocol-ipv6": filters.field("MetadataOptions", "HttpProtocolIpv6"),
    "metadata-options.http-put-response-hop-limit": filters.field(
        "MetadataOptions", "HttpPutResponseHopLimit"
    ),
    "metadata-options.instance-metadata-tags": filters.field(
        "MetadataOptions", "InstanceMetadataTags"
    ),
    "metadata-options.state": filters.field("MetadataOptions", "State"),
    "network-interface.addresses.association.public-ip": filters.field(
        "NetworkInterfaces", "PrivateIpAddresses", "Association", "PublicIp"
    ),
    "network-interface.addresses.primary": filters.field(
        "NetworkInterfaces", "PrivateIpAddresses", "Primary"
    ),
    "network-interface.addresses.private-ip-address": filters.field(
        "NetworkInterfaces", "PrivateIpAddresses", "PrivateIpAddress"
    ),
    "network-interface.association.public-ip": filters.field(
        "NetworkInterfaces", "Association", "PublicIp"
    ),
    "network-interface.attachment.attachment-id": filters.field(
        "NetworkInterfaces", "Attachment", "AttachmentId"
    ),
    "network-interface.attachment.delete-on-termination": filters.field(
        "NetworkInterfaces", "Attachment", "DeleteOnTermination"
    ),
    "network-interface.attachment.device-index": filters.field(
        "NetworkInterfaces", "Attachment", "DeviceIndex"
    ),
    "network-interface.attachment.status": filters.field(
        "NetworkInterfaces", "Attachment", "Status"
    ),
    "network-interface.description": filters.field("NetworkInterfaces", "Description"),
    "network-interface.group-id": filters.field("NetworkInterfaces", "Groups", "GroupId"),
    "network-interface.group-name": filters.field("NetworkInterfaces", "Groups", "GroupName"),
    "network-interface.mac-address": filters.field("NetworkInterfaces", "MacAddress"),
    "network-interface.owner-id": filters.field("NetworkInterfaces", "OwnerId"),
    "network-interface.private-dns-name": filters.field("NetworkInterfaces", "PrivateDnsName"),
    "network-interface.private-ip-address": filters.field("NetworkInterfaces", "PrivateIpAddress"),
    "network-interface.source-dest-check": filters.field("NetworkInterfaces", "SourceDestCheck"),
    "network-interface.status": filters.field("NetworkInterfaces", "Status"),
    "platform": filters.field("Platform"),
    "platform-details": filters.field("PlatformDetails"),
    "product-code": filters.field("ProductCodes", "ProductCodeId"),
    "product-code.type": filters.field("ProductCodes", "ProductCodeType"),
    "ramdisk-id": filters.field("RamdiskId"),
    "reason": filters.field("StateTransitionReason"),
    "source-dest-check": filters.field("SourceDestCheck"),
    "spot-instance-request-id": filters.field("SpotInstanceRequestId"),
    "state-reason-message": filters.field("StateReason", "Message"),
    "usage-operation": filters.field("UsageOperation"),
    "usage-operation-update-time": filters.field("UsageOperationUpdateTime"),
}

# No instance has a scheduled event.
STATUS_FILTERS = {
    "availability-zone": filters.field("AvailabilityZone"),
    "instance-state-code": filters.field("InstanceState", "Code"),
    "instance-state-name": filters.field("InstanceState", "Name"),
    "instance-status.reachability": filters.field("InstanceStatus", "Details", "Status"),
    "instance-status.status": filters.field("InstanceStatus", "Status"),
    "system-status.reachability": filters.field("SystemStatus", "Details", "Status"),
    "system-status.status": filters.field("SystemStatus", "Status"),
    "attached-ebs-status.status": filters.field("AttachedEbsStatus", "Status"),
    "event.code": filters.field("Events", "Code"),
    "event.description": filters.field("Events", "Description"),
    "event.instance-event-id": filters.field("Events", "InstanceEventId"),
    "event.not-after": filters.field("Events", "NotAfter"),
    "event.not-before": filters.field("Events", "NotBefore"),
    "event.not-before-deadline": filters.field("Events", "NotBeforeDeadline"),
}
