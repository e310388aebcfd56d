# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds the debug kernel; runs in a tree of Debian's own (chroot), $1 is the package with its
# source. Leaves in /build: kver, vmlinuz, out/lib/modules/VERSION and ext, the part of the build
# tree that modules are built with.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends "$1" gcc libc6-dev make flex bison bc libelf-dev \
	libssl-dev python3 cpio xz-utils kmod dwarves rsync openssl
cd /build
tar xf "/usr/src/$1.tar.xz"
cd "$1"
make x86_64_defconfig kvm_guest.config
scripts/kconfig/merge_config.sh -m .config /build/debug-kernel.config
make olddefconfig
grep '^CONFIG_' /build/debug-kernel.config | while read -r line; do
	grep -qx "$line" .config || { echo "not in the configuration: $line"; exit 1; }
done
make -j"$(nproc)" KCFLAGS=-Wno-error bzImage modules
# Without debug information the modules are a tenth as large; the names of functions stay.
make INSTALL_MOD_PATH=/build/out INSTALL_MOD_STRIP=1 modules_install
make -s kernelrelease >/build/kver
cp arch/x86/boot/bzImage /build/vmlinuz
make run-command KBUILD_RUN_COMMAND='$(srctree)/scripts/package/install-extmod-build /build/ext'
cp .config /build/ext/
# The module's types refer to the kernel's.
strip --strip-debug -o /build/ext/vmlinux vmlinux
