#!/bin/sh
# Run by mmdebstrap when all packages are in place: settles what they left open, and copies the
# kernel to DISK.vmlinuz.
#   furnish.sh ROOT DISK UUID PARTUUID
set -eu
root=$1 disk=$2 uuid=$3 partuuid=$4

release=$(basename "$root"/boot/vmlinuz-*)
release=${release#vmlinuz-}
for file in boot/grub/grub.cfg boot/grub/menu.lst etc/fstab; do
    sed -i "s/@RELEASE@/$release/g; s/@UUID@/$uuid/g; s/@PARTUUID@/$partuuid/g" "$root/$file"
done
ln -sf "vmlinuz-$release" "$root/boot/vmlinuz"

# Perl has been there to merge /bin into /usr/bin, and for nothing else: a sixth of the image.
perl=$(chroot "$root" dpkg-query --show --showformat='${Package} ' usrmerge perl 'perl-modules-*' \
    'libperl5*' libfile-find-rule-perl libnumber-compare-perl libtext-glob-perl 2>/dev/null || true)
[ -z "$perl" ] || chroot "$root" dpkg --purge $perl >/dev/null

chroot "$root" depmod "$release"
if [ -x "$root/usr/bin/dracut" ]; then
    chroot "$root" dracut --quiet --force --kver "$release" "/boot/initrd.img-$release"
else
    chroot "$root" update-initramfs -u -k "$release" >/dev/null
fi
chroot "$root" systemctl --quiet enable ssh systemd-networkd lab-loopback
# What a machine that lives for minutes has no use for, and emulation pays for dearly.
chroot "$root" systemctl --quiet mask \
    getty@tty1.service systemd-timesyncd.service systemd-pstore.service ldconfig.service \
    systemd-hwdb-update.service systemd-binfmt.service systemd-sysusers.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service \
    systemd-journal-catalog-update.service systemd-update-done.service kmod-static-nodes.service \
    systemd-network-generator.service modprobe@.service proc-sys-fs-binfmt_misc.automount \
    proc-sys-fs-binfmt_misc.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-mqueue.mount dev-hugepages.mount \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
    systemd-tmpfiles-clean.timer cloud-init-hotplugd.socket

# The one data source is named; to look for others costs seconds, and so does the schema that user
# data are compared with only to warn.
echo 'policy: enabled' >"$root/etc/cloud/ds-identify.cfg"
rm -r "$root/usr/lib/python3/dist-packages/jsonschema"
# Half of a boot is Python reading its modules. Their compiled forms are used as they are, whatever
# age the sources get below.
chroot "$root" python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /usr/lib/python3 \
    /usr/lib/python3.*/ >/dev/null

# A stage of cloud-init costs five emulated seconds. The first would look for a data source before
# there is a network, which this one needs; the third has nothing to do here.
chroot "$root" systemctl --quiet mask cloud-init-local.service cloud-config.service

# No two machines share these; the first boot makes them.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
echo localhost >"$root/etc/hostname"
: >"$root/etc/resolv.conf"
rm -rf "$root"/var/log/* "$root"/var/cache/* "$root"/var/lib/apt/lists/* "$root"/tmp/*
rm -f "$root"/var/lib/dpkg/*-old

# A kernel outside the image is what acceleration is tried with.
cp "$root/boot/vmlinuz-$release" "$disk.vmlinuz"
chmod 0644 "$disk.vmlinuz"
