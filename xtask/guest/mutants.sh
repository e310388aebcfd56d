#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the tests with one driver after the other: mutants.sh SECONDS NAME...
# /ubd/run/mutants/NAME.ko is the driver, NAME.tests names its tests. The host reads what is printed.

limit=$1
shift
for name; do
	echo "== begin $name"
	echo "mutant $name begins" >/dev/kmsg
	UBD_KO=/ubd/run/mutants/$name.ko \
		timeout -k 10 "$limit" /ubd/run/vm-test $(cat "/ubd/run/mutants/$name.tests") >log 2>&1 &
	test=$!
	# Through a file that is followed: a server left behind must not hold our output open.
	tail -n +1 -f --pid="$test" log
	wait "$test"
	echo "== end $?"
	# What is left of this one would be blamed on the next: that one gets a machine of its own.
	if [ -e /sys/module/ubd_drv ] || grep -q 'the kernel complained' log; then
		sleep 1
		echo b >/proc/sysrq-trigger
	fi
done
