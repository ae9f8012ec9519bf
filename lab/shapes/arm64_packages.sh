#!/bin/sh
# Run by mmdebstrap before the tree is furnished: downloads arm64's packages of what is installed.
#   arm64_packages.sh ROOT WORK
set -eu
root=$1 work=$2
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
mkdir "$work/debs" "$work/grub" "$work/modules"
chroot "$root" dpkg-query --show --showformat '${Architecture} ${Package}\n' |
    sed -n 's/^amd64 //p' >"$work/amd64"
cd "$work/debs"
# A package of the kernel has the architecture in its name.
sed 's/amd64/arm64/; s/$/:arm64/' "$work/amd64" | xargs apt-get -qq download
cd "$work/grub"
apt-get -qq download grub-efi-arm64-bin:arm64
dpkg-deb --extract grub-efi-arm64-bin_*.deb "$work/modules"
