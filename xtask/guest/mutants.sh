#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Runs the tests with one driver after the other: mutants.sh NAME...
# In /ubd/run/mutants, NAME.ko is the driver, NAME.tests names its tests, which hang if they take
# longer than NAME.seconds. The host reads what is printed.

cd /ubd/run/mutants || exit
log=/tmp/log
for name; do
	echo "== begin $name"
	echo "mutant $name begins" >/dev/kmsg
	: >$log
	(
		UBD_KO=$PWD/$name.ko
		seconds=$(cat "$name.seconds")
		tests=$(cat "$name.tests")
		cd /tmp
		exec timeout -k 10 "$seconds" /ubd/run/vm-test $tests
	) >$log 2>&1 &
	test=$!
	# Through a file that is followed: a server left behind must not hold our output open.
	tail -n +1 -f --pid="$test" $log
	wait "$test"
	# A test that hangs has not ended its line.
	printf '\n== end %s\n' $?
	# What is left of this one would be blamed on the next: that one gets a machine of its own.
	# The kernel is tainted by what it complains about; 12288: a driver from outside, not signed.
	if [ -e /sys/module/ubd_drv ] || grep -q 'the kernel complained' $log ||
		[ $(($(cat /proc/sys/kernel/tainted) & ~12288)) -ne 0 ]; then
		sleep 1
		echo b >/proc/sysrq-trigger
	fi
done
