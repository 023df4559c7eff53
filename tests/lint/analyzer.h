/* Only for static analysers, which look at one file at a time: that these always return -1 has to
 * be said where they are called, or every failure seems to go on as a success.
 */
#include "src/base/err.h"

#define err_set(...)    (err_set(__VA_ARGS__), -1)
#define err_sys(...)    (err_sys(__VA_ARGS__), -1)
#define err_nomem(...)  (err_nomem(__VA_ARGS__), -1)
#define err_prefix(...) (err_prefix(__VA_ARGS__), -1)
