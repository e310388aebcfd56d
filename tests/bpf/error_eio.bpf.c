// SPDX-License-Identifier: GPL-2.0
/* An error for the submitter: EIO, or another one with --set error=-28. */
#include "below.h"

const volatile __s32 error = -EIO;	/* negative errno */

SEC("struct_ops/map")
int BPF_PROG(error_eio_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	return error;
}

UBD_TEST_PROGRAM(error_eio, error_eio_map, UBD_OPS_WANT_DISCARD);
