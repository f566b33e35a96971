/* test_model_block_faults.c - the n-th allocation fails while a block is cut, for every n: a clean
 * status, and nothing is left behind. */
#include "arch_sample.h"

#include <errno.h>

static volatile long left = -1; /* allocations before the one that fails; below 0: none does */
static volatile long alive;     /* pieces of memory that are held, while `counting` */
static volatile int counting;

#if !SANITIZED
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void __libc_free(void *memory);

static void *hold(void *memory)
{
    alive += counting && memory;
    return memory;
}

static int refused(void)
{
    if (left < 0 || left-- > 0)
        return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return refused() ? NULL : hold(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
    return refused() ? NULL : hold(__libc_calloc(count, size));
}

void *realloc(void *memory, size_t size)
{
    if (refused())
        return NULL;
    void *moved = __libc_realloc(memory, size);
    return memory ? moved : hold(moved);
}

void free(void *memory)
{
    alive -= counting && memory;
    __libc_free(memory);
}
#endif

static void every_allocation_of_a_block_may_fail(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    for (const arch_sample *s = arch_samples; s->name; s++) {
        pare_model *model, *block = NULL;
        pare_status status = PARE_ERR_MEMORY;
        long tried = 0;
        assert_ok(
            pare_model_create(&(pare_model_options){.arch = s->arch, .config = s->config}, &model));
        for (; status == PARE_ERR_MEMORY; tried++) {
            alive = 0;
            counting = 1;
            left = tried;
            status = pare_model_block(model, 0, false, &block);
            left = -1;
            pare_model_free(&block);
            counting = 0;
            assert_int_equal(alive, 0);
        }
        assert_int_equal(status, PARE_OK);
        assert_true(tried > 10);
        pare_model_free(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_of_a_block_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
