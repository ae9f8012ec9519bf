"""Images in other shapes than the lab's own: other partitions, file systems and boot loaders.

Each is made of the lab's recipe, in lab/recipe, and of what its shape wants besides.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The differences from the lab's own image, which has one ext4 on an MBR.

    Every shape has a GPT: a BIOS boot partition, an EFI system partition, /boot as an ext4 of its
    own, each where the shape has one, and the root last. `modules` are the kernel's, as patterns
    below its folder `kernel`.
    """

    what: str
    architecture: str = "x86_64"  # Koji's word
    system: str = "ext4"  # of the root
    bios: bool = True
    uefi: bool = True
    own_boot: bool = False
    mib: int = 400
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    arguments: str = ""  # the kernel's, besides the lab's own

    @property
    def arm(self) -> bool:
        """Return whether it boots on arm64 alone."""
        return self.architecture == "aarch64"


_BTRFS = ("fs/btrfs/*", "lib/zstd/*", "lib/raid6/*", "lib/*")
_DRACUT = ("dracut", "e2fsprogs")

SHAPES = {
    "arm64": Shape(
        "arm64: UEFI, GPT, ext4",
        architecture="aarch64",
        bios=False,
    ),
    "fedora": Shape(
        "Fedora Cloud's layout: BIOS and UEFI, ext4 /boot, btrfs subvolumes, dracut",
        system="btrfs",
        own_boot=True,
        mib=1200,
        packages=(*_DRACUT, "btrfs-progs"),
        modules=_BTRFS,
        arguments="rootflags=subvol=root",
    ),
    "xfs": Shape(
        "XFS root, ext4 /boot, dracut",
        system="xfs",
        own_boot=True,
        mib=900,
        packages=(*_DRACUT, "xfsprogs"),
        modules=("fs/xfs/*",),
    ),
    "uefi-only": Shape("boots by UEFI alone", bios=False),
    "bios-only": Shape("boots by BIOS alone", uefi=False),
}
