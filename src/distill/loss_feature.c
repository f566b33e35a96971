/* loss_feature.c - feature maps of a convolutional student learn from a teacher's of the same size:
 * hints (Romero 2015, eq. 3).
 *
 *   loss = 1/P·Σ_stages 1/(H·W·C)·|x * W − t|²
 *
 * over P stages that both have, with a learned 1 × 1 convolution W [C, C'] where the channels
 * differ. The paper trains one hint in a phase of its own; here all stages take part all the time.
 * A pixel is a row, so it is the loss of hidden states.
 */
#include "distill_impl.h"

static pare_status run(pare_loss_args *args)
{
    return pare__states_run(args, false);
}

const pare_loss pare__loss_feature = {.name = "feature",
                                      .summary = "feature maps of the stages of convolutional "
                                                 "networks",
                                      .teacher = true,
                                      .scratch = pare__states_scratch,
                                      .results = pare__states_results,
                                      .run = run};
