/* Nothing is claimed before a passphrase opened it: a file that was only opened has no key. [S3.26]
 *
 * expect: incompatible pointer type
 */
#include "backend/image.h"

int f(struct image_file *file, struct image *image, struct store **s, struct err *e);
int f(struct image_file *file, struct image *image, struct store **s, struct err *e)
{
#ifdef MUST_COMPILE
    return image_claim(image, s, e);
#else
    return image_claim(file, s, e);
#endif
}
