"""Name the types that mypy sees for AWS clients and for what EC2 takes and answers.

The stubs are there for mypy alone: at run time all of these are Any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

#: A client of another service than EC2; boto3 creates its methods at run time.
Client: TypeAlias = Any

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client as _EC2Client
    from mypy_boto3_ec2.literals import InstanceTypeType, ResourceTypeType
    from mypy_boto3_ec2.type_defs import (
        BlockDeviceMappingTypeDef,
        EbsBlockDeviceTypeDef,
        FilterTypeDef,
        ImageTypeDef,
        InstanceTypeDef,
        InstanceTypeInfoTypeDef,
        IpPermissionTypeDef,
        SnapshotTypeDef,
        SubnetTypeDef,
        TagSpecificationTypeDef,
        TagTypeDef,
    )

    EC2Client: TypeAlias = _EC2Client
    BlockDeviceMapping: TypeAlias = BlockDeviceMappingTypeDef
    EBSVolume: TypeAlias = EbsBlockDeviceTypeDef
    Filter: TypeAlias = FilterTypeDef
    Image: TypeAlias = ImageTypeDef
    InstanceDescription: TypeAlias = InstanceTypeDef
    InstanceTypeInfo: TypeAlias = InstanceTypeInfoTypeDef
    InstanceTypeName: TypeAlias = InstanceTypeType
    IpPermission: TypeAlias = IpPermissionTypeDef
    ResourceType: TypeAlias = ResourceTypeType
    Snapshot: TypeAlias = SnapshotTypeDef
    Subnet: TypeAlias = SubnetTypeDef
    Tag: TypeAlias = TagTypeDef
    TagSpecification: TypeAlias = TagSpecificationTypeDef
else:
    EC2Client = BlockDeviceMapping = EBSVolume = Filter = Image = InstanceDescription = Any
    InstanceTypeInfo = InstanceTypeName = IpPermission = Snapshot = Subnet = Any
    ResourceType = Tag = TagSpecification = Any
