/* SANITIZED: built with a sanitizer, under which all takes several times as long. The short forms
 * of tests that run the same code over and over try fewer cases then.
 */
#ifndef NVKEEP_TESTS_SANITIZED_H
#define NVKEEP_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* gcc */
#define SANITIZED 1
#elif defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer) ||                         \
    __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
