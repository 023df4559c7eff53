#include "backend/tpm.h"
