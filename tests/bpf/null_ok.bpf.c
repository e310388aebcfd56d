// SPDX-License-Identifier: GPL-2.0
/* A device that holds nothing: ZERO for everything, data is dropped. */
#include "prog.h"

SEC("struct_ops/map")
int BPF_PROG(null_ok_map, struct ubd_bpf_io *io)
{
	return UBD_MAP_ZERO;
}

UBD_TEST_PROGRAM(null_ok, null_ok_map, UBD_OPS_WANT_DISCARD | UBD_OPS_DISCARD_WRITES);
