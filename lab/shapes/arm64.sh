#!/bin/sh
# Run by mmdebstrap when the tree is furnished for x86: puts arm64's packages in the place of amd64's.
# None of their programs is run. What scripts of packages have made (users, links of units, compiled
# Python) is as good for one architecture as for the other.
#   arm64.sh ROOT WORK
set -eu
root=$1 work=$2

sed -n 's/x86_64-linux-gnu/aarch64-linux-gnu/; s/^path-exclude=/./p' "$work/recipe/unpacked" |
    grep -v '/modules/' >"$work/excluded"
sed -n 's/^path-include=/./p' "$work/recipe/unpacked" >"$work/included"
unpack() { # DEB OPTIONS…
    deb=$1
    shift
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --wildcards \
        --wildcards-match-slash --exclude-from="$work/excluded" --exclude=./proc --exclude=./sys \
        --exclude=./dev "$@"
}

kernel=$(echo "$work"/debs/linux-image-*-cloud-arm64_*.deb)
unpack "$kernel" --exclude='./lib/modules/*/kernel/*'
# Not each of the patterns has files in this kernel.
unpack "$kernel" --files-from="$work/included" 2>"$work/unmatched" || true
rm "$kernel"
release=$(basename "$root"/boot/vmlinuz-*-cloud-arm64)
release=${release#vmlinuz-}
chroot "$root" depmod "$release"

# Configuration stays: it is the same, and the recipe's own is in it.
while read -r package; do
    cat "$root/var/lib/dpkg/info/$package.list" "$root/var/lib/dpkg/info/$package:amd64.list" \
        2>"$work/unlisted" | grep -v '^/etc/' || true
done <"$work/amd64" | while read -r path; do
    # A link to a folder, such as /bin, is not one package's to remove.
    if [ -f "$root$path" ] || { [ -L "$root$path" ] && [ ! -d "$root$path" ]; }; then
        rm -f "$root$path"
    fi
done
for deb in "$work"/debs/*.deb; do
    unpack "$deb" --exclude='./etc/*'
done

rm -rf "$root"/lib/modules/*-cloud-amd64 "$root"/boot/*-cloud-amd64 "$root/etc/ld.so.cache"
ln -sf "vmlinuz-$release" "$root/boot/vmlinuz"
sed -i 's/-cloud-amd64/-cloud-arm64/g; /^initrd /d' "$root/boot/grub/grub.cfg"
echo arm64 >"$root/var/lib/dpkg/arch"
sed -i 's/^Architecture: amd64$/Architecture: arm64/' "$root/var/lib/dpkg/status"
