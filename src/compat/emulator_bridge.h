/* A character device in the place of the data socket: a thread takes commands from it to the data
 * channel, and responses back. It is there before the process is confined, and opens nothing.
 */
#ifndef NVKEEP_COMPAT_EMULATOR_BRIDGE_H
#define NVKEEP_COMPAT_EMULATOR_BRIDGE_H

#include "src/base/err.h"

/* Takes the device. *ret is the other end: a connected socket, hung up when the device is. */
int emulator_bridge(int *device, int *ret, struct err *e) MUST_CHECK;

#endif
