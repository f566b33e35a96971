/* prune.c - the table of pruning methods. A new one is its file and a line here. */
#include "prune_impl.h"

#include <string.h>

static const pare_prune_method *const methods[] = {
    &pare__prune_magnitude,
    &pare__prune_random,
    &pare__prune_wanda,
    &pare__prune_sparsegpt,
    &pare__prune_taylor,
    &pare__prune_fisher,
    NULL,
};

const pare_prune_method *const *pare_prune_methods(void)
{
    return methods;
}

const pare_prune_method *pare_prune_find(const char *name)
{
    for (size_t i = 0; methods[i]; i++)
        if (strcmp(methods[i]->name, name) == 0)
            return methods[i];
    return NULL;
}
