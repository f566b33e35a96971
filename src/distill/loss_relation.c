/* loss_relation.c - relations between positions of one layer: queries to queries, keys to keys,
 * values to values (MiniLMv2: Wang 2021, eq. 4).
 *
 *   loss = 1/3·Σ_{Q,K,V} Σ_samples n_b/(A·T_b)·Σ_heads Σ_i KL(softmax(R_i) ‖ softmax(S_i))
 *
 * with R = t·tᵀ/√d and S = x·xᵀ/√d' of each of A relation heads: features are cut anew into A
 * heads, so that widths and numbers of heads may differ. n_b, T_b: loss_attention.c. Of keys and
 * values that are narrower than queries A is the largest divisor that fits. The paper adds the
 * three; here it is their mean. Cost: six products T × T × width and their gradients.
 */
#include "distill_impl.h"

static int64_t gcd(int64_t a, int64_t b)
{
    while (b > 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static pare__scores with_itself(const pare__pair *pair, int index)
{
    int heads = (int)gcd(gcd(pair->width[index], pair->teacher_width[index]), pair->heads);
    return (pare__scores){
        .query = index, .key = index, .heads = heads, .kv_heads = heads, .teacher_kv_heads = heads};
}

static int64_t results(void *state, pare_model *model, const pare_model_shape *shape)
{
    (void)model;
    return pare__scores_results(state, 3, shape);
}

static pare_status run(pare_loss_args *args)
{
    return pare__scores_run(
        args, &(pare__scoring){.each = 3, .kind = PARE_RELATION_KL, .of = with_itself});
}

const pare_loss pare__loss_relation = {.name = "relation",
                                       .summary = "relations of queries, keys and values of a "
                                                  "layer",
                                       .teacher = true,
                                       .scratch = results,
                                       .results = results,
                                       .run = run};
