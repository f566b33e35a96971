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

int64_t pare_curve_begin(const pare_curve *curve, int64_t step)
{
    if (curve->period <= 0)
        return 0;
    int64_t times = step / curve->period;
    return curve->period * (times < curve->restarts ? times : curve->restarts);
}

double pare_curve_at(const pare_curve *curve, int64_t step)
{
    if (curve->period > 0) {
        pare_curve one = *curve;
        int64_t begin = pare_curve_begin(curve, step);
        bool last = begin == curve->period * curve->restarts;
        one.steps = last ? curve->steps - begin : curve->period;
        one.period = 0;
        return pare_curve_at(&one, step - begin);
    }
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

double pare_ramp_at(const pare_ramp *ramp, int64_t step, int64_t steps)
{
    double share = steps > 0 ? (double)step / (double)steps : 0;
    if (!(ramp->end > 0) || share <= ramp->begin)
        return ramp->from;
    if (share >= ramp->end)
        return ramp->to;
    return ramp->from + (ramp->to - ramp->from) * (share - ramp->begin) / (ramp->end - ramp->begin);
}
