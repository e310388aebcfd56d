#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# An interactive shell on the console.

. /ubd/run/setup.sh
: >/ubd/out/.started
dmesg --console-level 1
echo "ubd: type \`exit\` to stop the machine; /ubd/repo is the repository, /ubd/out goes to the host"
bash -i
echo 0 >/ubd/out/.exit-code
sync
