/* curve.c - the learning rate of a step.
 *
 * With S steps, W of them warm-up, and p = (s − W)/(S − W) from 0 to 1 over the rest:
 *   s < W      rate·(s + 1)/W
 *   COSINE     final + (rate − final)·(1 + cos(π·p))/2,  final = rate·final_rate
 *   LINEAR     rate + (final − rate)·p
 *   STEP       rate·gamma^k, k: milestones that s has reached, a milestone m being step round(m·S)
 *   CONSTANT   rate
 * Without warm-up these are PyTorch's CosineAnnealingLR(T_max = S, eta_min = final),
 * LinearLR(1, final_rate, S), MultiStepLR and ConstantLR.
 */
#include "pare/train.h"

#include <math.h>

static double stepped(const pare_curve *curve, int64_t step)
{
    static const double halves[] = {0.5, 0.75};
    const double *milestones = curve->milestone_count ? curve->milestones : halves;
    int count = curve->milestone_count ? curve->milestone_count : 2;
    double gamma = curve->gamma > 0 ? curve->gamma : 0.1, rate = curve->rate;
    for (int i = 0; i < count; i++)
        if (step >= llround(milestones[i] * (double)curve->steps))
            rate *= gamma;
    return rate;
}

double pare_curve_at(const pare_curve *curve, int64_t step)
{
    if (step < curve->warmup)
        return curve->rate * (double)(step + 1) / (double)curve->warmup;
    int64_t rest = curve->steps - curve->warmup, done = step - curve->warmup;
    double p = done < rest ? (double)done / (double)rest : 1;
    double final = curve->rate * curve->final_rate;
    switch (curve->kind) {
    case PARE_SCHEDULE_COSINE:
        return final + (curve->rate - final) * (1 + cos(3.14159265358979323846 * p)) / 2;
    case PARE_SCHEDULE_LINEAR:
        return curve->rate + (final - curve->rate) * p;
    case PARE_SCHEDULE_STEP:
        return stepped(curve, step);
    case PARE_SCHEDULE_CONSTANT:
        break;
    }
    return curve->rate;
}
