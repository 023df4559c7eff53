/* The names of swtpm's files, for those who read and write them. */
#ifndef NVKEEP_SRC_SWTPM_STATE_PRIV_H
#define NVKEEP_SRC_SWTPM_STATE_PRIV_H

#include "backend/store.h"

enum { SWTPM_NAME_BYTES = 32 };
void swtpm_file_name(enum device_kind device, enum blob_kind kind, char ret[SWTPM_NAME_BYTES]);

#endif
