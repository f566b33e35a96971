/* test.h - CMocka with its own includes in the order it wants. */
#ifndef PARE_TEST_H
#define PARE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pare/status.h"

/* Whether a sanitizer owns the allocator: then a test cannot put its own in front of it. */
#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Fails the test with the library's sentence unless call is PARE_OK. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        pare_status got_ = (call);                                                                 \
        if (got_ != PARE_OK)                                                                       \
            fail_msg("%s: %s: %s", #call, pare_status_name(got_), pare_last_error());              \
    } while (0)

/* Fails unless call gives this status with a sentence. */
#define assert_status(call, want)                                                                  \
    do {                                                                                           \
        pare_status got_ = (call);                                                                 \
        if (got_ != (want))                                                                        \
            fail_msg("%s: got %s (%s), want %s", #call, pare_status_name(got_), pare_last_error(), \
                     pare_status_name(want));                                                      \
        assert_true(got_ == PARE_OK || pare_last_error()[0] != '\0');                              \
    } while (0)

/* A fresh folder under TMPDIR, removed by test_folder_remove; the string is freed there. */
char *test_folder_make(void);
void test_folder_remove(char *folder);

/* A path inside the folder of test data (PARE_TEST_DATA), freed by the caller; NULL where there is
 * none: then call test_skip(). */
char *test_data(const char *name);

#endif
