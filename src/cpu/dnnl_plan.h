/* dnnl_plan.h - products that are made once and run often.
 *
 * Making a oneDNN primitive takes longer than many a product. So each is made at the first call
 * with its recipe and kept in the backend's state, with its memory objects, until the backend goes.
 * An op writes its recipe, takes the plan, asks once for scratch (its own and the plan's) and runs
 * it. (A single product of matrices inside larger ones: pare__dnnl_gemm_sub in cpu_dnnl.h.)
 */
#ifndef PARE_DNNL_PLAN_H
#define PARE_DNNL_PLAN_H

#include "backend_impl.h"
#include "dnnl_compat.h"

typedef struct product_plan product_plan;

/* The plan of a recipe (all bytes of which count), and the scratch it needs. Failures name the op
 * and the shapes. */
pare_status pare__product_plan(pare_backend *be, const product_recipe *recipe, product_plan **plan,
                               size_t *scratch);

/* Runs it over data in the order of product_role (NULL where the recipe has none). */
pare_status pare__product_run(pare_backend *be, product_plan *plan, void *const data[PRODUCT_ROLES],
                              void *scratch);

/* A row-major tensor as it is. */
product_view pare__product_view(pare_dtype dtype, int rank, const int64_t *dims);

/* ---- operands that oneDNN cannot take as they are ---------------------------------------------
 */

/* A tensor that a product works on in another dtype, or aligned, in scratch. */
typedef struct product_operand {
    pare_tensor given, work; /* work.data is set by pare__operand_place */
    bool rounded;            /* F32 to BF16 and back: for a product of BF16 numbers in F32 */
    size_t at, rounded_at;   /* where in scratch */
} product_operand;

/* A place for size bytes behind *used bytes of scratch. */
size_t pare__room(size_t *used, size_t size);

/* The tensor as dtype (itself where that is possible), `rounded` to BF16 on the way; claims its
 * place. */
product_operand pare__operand(const pare_tensor *given, pare_dtype dtype, bool rounded,
                              size_t *used);

/* Sets work.data; then: converts given to work, or work back to given, where they differ. */
void pare__operand_place(product_operand *operand, void *scratch);
pare_status pare__operand_read(pare_backend *be, const product_operand *operand, void *scratch);
pare_status pare__operand_write(pare_backend *be, const product_operand *operand);

#endif
