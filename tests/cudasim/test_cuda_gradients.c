/* test_cuda_gradients.c - pruning by gradients that a simulated device computes. */
#define DEVICE "cuda:0"
#include "../unit/test_gradients.c"
