/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM ubd

#if !defined(UBD_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define UBD_TRACE_H

#include <linux/tracepoint.h>
#include "ubd_bpf.h"

/* One per answer of a program: the question, the answer, what we made of it. */
TRACE_EVENT(ubd_verdict,
	TP_PROTO(const struct ubd_bpf_io *io, int verdict, int bad),
	TP_ARGS(io, verdict, bad),
	TP_STRUCT__entry(
		__field(u64, sector)
		__field(u64, map_sector)
		__field(u32, dev_id)
		__field(u32, op)
		__field(u32, nr_sectors)
		__field(u32, slot)
		__field(u32, map_sectors)
		__field(int, verdict)
		__field(int, bad)
	),
	TP_fast_assign(
		__entry->sector = io->sector;
		__entry->map_sector = io->map_sector;
		__entry->dev_id = io->dev_id;
		__entry->op = io->op;
		__entry->nr_sectors = io->nr_sectors;
		__entry->slot = io->slot;
		__entry->map_sectors = io->map_sectors;
		__entry->verdict = verdict;
		__entry->bad = bad;
	),
	TP_printk("ubdb%u op %s sector %llu + %u verdict %d%s slot %u map_sector %llu map_sectors %u",
		  __entry->dev_id,
		  __print_symbolic(__entry->op,
				   { UBD_OP_READ, "read" },
				   { UBD_OP_WRITE, "write" },
				   { UBD_OP_DISCARD, "discard" },
				   { UBD_OP_WRITE_ZEROES, "write_zeroes" }),
		  __entry->sector, __entry->nr_sectors, __entry->verdict,
		  __entry->bad ? " (bad)" : "", __entry->slot,
		  __entry->map_sector, __entry->map_sectors)
);

#endif /* UBD_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
