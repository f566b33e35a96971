/* ops_refuse.h - what the programs that hand wrong arguments to ops share: a backend, and two
 * macros. */
#ifndef OPS_REFUSE_H
#define OPS_REFUSE_H

#include "ops_harness.h"

static pare_backend *be;

static int setup(void **state)
{
    (void)state;
    return pare_cpu_create(NULL, &be) == PARE_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    pare_backend_free(&be);
    return 0;
}

/* The argument struct `good` is taken; changed by `change` it is refused with `word` in the
 * sentence. */
#define TAKEN(op) assert_ok(pare_##op(be, &good))
#define REFUSED(op, word, change)                                                                  \
    do {                                                                                           \
        pare_##op##_args bad = good;                                                               \
        change;                                                                                    \
        assert_status(pare_##op(be, &bad), PARE_ERR_ARGUMENT);                                     \
        if (!strstr(pare_last_error(), #op) || !strstr(pare_last_error(), word))                   \
            fail_msg("the sentence \"%s\" lacks %s or %s", pare_last_error(), #op, word);          \
    } while (0)

#endif
