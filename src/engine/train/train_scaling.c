/* train_scaling.c - what a training would take on several GPUs: a model of communication, for
 * plans.
 *
 * Each of N ranks has its own batch of the size asked for. A ring moves 2·(N − 1)/N of the
 * gradients' bytes through each rank's slowest link (Patarasuk & Yuan 2009): NVLink inside a node
 * of 8, one network card a GPU between nodes. Buckets are sent while backward goes on, so that all
 * but the last bucket hides behind what is left of it. Compute is what one GPU would take at the
 * rate below; efficiency is compute / (compute + what is not hidden). These are predictions from
 * published figures of an H200, not measurements.
 */
#include "training.h"

#define RATE                                                                                       \
    400e12 /* FLOP/s of bf16 products in a training: about 40 % of the 989e12 published            \
            */
#define F32_RATE 30e12    /* of f32 (TF32 apart): about half of 67e12 */
#define NVLINK 360e9      /* bytes/s a direction that collectives reach of 450e9 published */
#define NETWORK 45e9      /* of 50e9: 400 Gbit/s a GPU */
#define LATENCY 8e-6      /* seconds a step of the ring inside a node; */
#define FAR_LATENCY 20e-6 /* and between nodes */
#define NODE 8
#define BUCKET ((int64_t)25 << 20)

typedef struct forecast {
    double bytes, seconds, exposed, step;
} forecast;

static forecast of_ranks(double gradients, double forward, double backward, int ranks)
{
    bool far = ranks > NODE;
    double share = 2.0 * (ranks - 1) / ranks, buckets = gradients / (double)BUCKET;
    double bandwidth = far ? NETWORK : NVLINK, latency = far ? FAR_LATENCY : LATENCY;
    buckets = buckets < 1 ? 1 : buckets;
    forecast f = {.bytes = share * gradients};
    f.seconds = f.bytes / bandwidth + buckets * 2 * (ranks - 1) * latency;
    double last = f.seconds / buckets, hideable = backward * (buckets - 1) / buckets;
    double rest = f.seconds - last;
    f.exposed = last + (rest > hideable ? rest - hideable : 0);
    f.step = forward + backward + f.exposed;
    return f;
}

void pare__training_scaling(const pare__training *t, pare__json *root)
{
    static const int ranks[] = {2, 8, 64};
    bool half = t->shape.compute == PARE_BF16;
    double rate = half ? RATE : F32_RATE, accumulate = (double)t->train.accumulate;
    double forward = accumulate * (t->need.model.flops + t->need.against.flops) / rate;
    double backward = accumulate * 2 * t->need.model.flops / rate;
    pare__json *o = pare__json_set_object(root, "scaling");
    pare__json_set_string(o, "assumes",
                          half ? "400 TFLOP/s a GPU (bf16), 360 GB/s inside a node of 8, 45 GB/s "
                                 "between nodes; predicted, not measured"
                               : "30 TFLOP/s a GPU (f32), 360 GB/s inside a node of 8, 45 GB/s "
                                 "between nodes; predicted, not measured");
    pare__json_set_int(o, "gradient_bytes", t->need.model.grads);
    pare__json_set_real(o, "step_seconds", forward + backward);
    pare__json *list = pare__json_set_array(o, "ranks");
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        forecast f = of_ranks((double)t->need.model.grads, forward, backward, ranks[i]);
        pare__json *row = pare__json_set_object(list, NULL);
        pare__json_set_int(row, "ranks", ranks[i]);
        pare__json_set_real(row, "bytes", f.bytes);
        pare__json_set_real(row, "seconds", f.seconds);
        pare__json_set_real(row, "exposed_seconds", f.exposed);
        pare__json_set_real(row, "efficiency", (forward + backward) / f.step);
    }
}
