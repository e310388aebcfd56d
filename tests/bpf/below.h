/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For programs that misbehave on a part of the device only: the part is what
 * begins below this sector. The default is the whole device.
 */
#ifndef UBD_TEST_BELOW_H
#define UBD_TEST_BELOW_H

#include "prog.h"

const volatile __u64 below = ~0ULL;	/* sectors */

#endif /* UBD_TEST_BELOW_H */
