#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the user's command and leaves its exit code where the host finds it. No code there means
# that the guest did not get so far.

exec 2>&1
. /ubd/run/setup.sh

# By name, stderr would go among the kernel's messages. (Each of virtme-ng's ports takes one opener,
# so that stdout has a second one for those who open it by name.)
ln -sf "$(readlink /dev/stdout)" /dev/stderr

: >/ubd/out/.started
/ubd/run/command
echo $? >/ubd/out/.exit-code
sync
