/* A passphrase rests in a secret; a string has no owner who wipes it. [S1.20]
 *
 * expect: incompatible pointer type
 */
#include "src/serve/serve.h"

void f(struct serve_options *o, struct secret **pass, char *text);
void f(struct serve_options *o, struct secret **pass, char *text)
{
#ifdef MUST_COMPILE
    o->pass = MOVE(*pass);
#else
    o->pass = text;
#endif
}
