/* Wrong shapes, dtypes, overlaps and numbers of the quantisers that training looks through are
 * refused, with the op and the argument in the sentence. */
#include "ops_refuse.h"

static struct memory {
    float x[64], y[64], step[16], dy[64], dx[64], dstep[16];
    uint8_t mask[64];
    int8_t codes[64];
} m;

static void fake_quant_wants_a_step_a_block(void **state)
{
    (void)state;
    pare_fake_quant_args good = {.x = pare_matrix(m.x, PARE_F32, 6, 9),
                                 .step = pare_matrix(m.step, PARE_F32, 2, 3),
                                 .mask = pare_matrix(m.mask, PARE_U8, 6, 9),
                                 .y = pare_matrix(m.y, PARE_F32, 6, 9),
                                 .codes = pare_matrix(m.codes, PARE_I8, 6, 9),
                                 .block_rows = 4,
                                 .block_cols = 4,
                                 .lo = -8,
                                 .hi = 7};
    TAKEN(fake_quant);
    REFUSED(fake_quant, "x is F16", bad.x.dtype = PARE_F16);
    REFUSED(fake_quant, "step is [2, 3]", bad.block_cols = 3; bad.block_rows = 2);
    REFUSED(fake_quant, "step is BF16", bad.step.dtype = PARE_BF16);
    REFUSED(fake_quant, "0 × 4", bad.block_rows = 0);
    REFUSED(fake_quant, "4 × -1", bad.block_cols = -1);
    REFUSED(fake_quant, "mask is [5, 9]", bad.mask.shape[0] = 5);
    REFUSED(fake_quant, "mask is I8", bad.mask.dtype = PARE_I8);
    REFUSED(fake_quant, "y is BF16", bad.y.dtype = PARE_BF16);
    REFUSED(fake_quant, "y is [6, 8]", bad.y.shape[1] = 8);
    REFUSED(fake_quant, "codes is U8", bad.codes.dtype = PARE_U8);
    REFUSED(fake_quant, "codes is [6, 8]", bad.codes.shape[1] = 8);
    REFUSED(fake_quant, "from -129 to 7", bad.lo = -129);
    REFUSED(fake_quant, "from -8 to 128", bad.hi = 128);
    REFUSED(fake_quant, "from 1 to 7", bad.lo = 1);
    REFUSED(fake_quant, "from -8 to -1", bad.hi = -1);
    REFUSED(fake_quant, "overlap", bad.y.data = m.x + 1);
    REFUSED(fake_quant, "overlap", bad.y.data = m.step);
    REFUSED(fake_quant, "overlap", bad.mask.data = m.y);
    REFUSED(fake_quant, "overlap", bad.codes.data = m.x);
    REFUSED(fake_quant, "overlap", bad.codes.data = m.mask);
    good.y.data = m.x;
    good.mask.data = good.codes.data = NULL;
    TAKEN(fake_quant);
}

static void fake_quant_grad_wants_gradients_of_the_same_shapes(void **state)
{
    (void)state;
    pare_fake_quant_grad_args good = {.x = pare_matrix(m.x, PARE_F32, 6, 9),
                                      .step = pare_matrix(m.step, PARE_F32, 6, 1),
                                      .mask = pare_matrix(m.mask, PARE_U8, 6, 9),
                                      .dy = pare_matrix(m.dy, PARE_F32, 6, 9),
                                      .dx = pare_matrix(m.dx, PARE_F32, 6, 9),
                                      .dstep = pare_matrix(m.dstep, PARE_F32, 6, 1),
                                      .block_rows = 1,
                                      .block_cols = 9,
                                      .lo = -8,
                                      .hi = 7};
    TAKEN(fake_quant_grad);
    REFUSED(fake_quant_grad, "x is I32", bad.x.dtype = PARE_I32);
    REFUSED(fake_quant_grad, "step is", bad.block_rows = 2);
    REFUSED(fake_quant_grad, "1 × 0", bad.block_cols = 0);
    REFUSED(fake_quant_grad, "mask is [6, 2]", bad.mask.shape[1] = 2);
    REFUSED(fake_quant_grad, "dy is BF16", bad.dy.dtype = PARE_BF16);
    REFUSED(fake_quant_grad, "dx is [5, 9]", bad.dx.shape[0] = 5);
    REFUSED(fake_quant_grad, "dstep is [5, 1]", bad.dstep.shape[0] = 5);
    REFUSED(fake_quant_grad, "from 1 to 7", bad.lo = 1);
    REFUSED(fake_quant_grad, "overlap", bad.dx.data = m.x);
    REFUSED(fake_quant_grad, "overlap", bad.dx.data = m.dy + 1);
    REFUSED(fake_quant_grad, "overlap", bad.dx.data = m.step);
    REFUSED(fake_quant_grad, "overlap", bad.dstep.data = m.step);
    REFUSED(fake_quant_grad, "overlap", bad.dstep.data = m.dx + 3);
    good.dx.data = m.dy;
    good.mask.data = good.dstep.data = NULL;
    TAKEN(fake_quant_grad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fake_quant_wants_a_step_a_block),
        cmocka_unit_test(fake_quant_grad_wants_gradients_of_the_same_shapes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
