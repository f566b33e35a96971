/* provenance.c - what an output remembers of its making: version, recipe, a digest of every source
 * tensor. Never paths, times, threads, budget or device, so that the same work gives the same
 * bytes. docs/formats/store.md has the format. */
#include "job.h"

#include "pare/version.h"

#include <string.h>

/* What the source remembers already goes first, so that the whole history stays. */
static pare__json *history(const pare__job *job)
{
    pare__json *root = NULL;
    const char *text = pare_store_provenance(job->store);
    if (text && pare__json_parse(text, strlen(text), "provenance", &root) == PARE_OK) {
        if (pare__json_is_array(root))
            return root;
        pare__json_free(&root);
    }
    return pare__json_new_array();
}

pare_status pare__provenance(const pare__job *job, char **text)
{
    char hex[33];
    pare__json *root = history(job);
    pare__json *entry = pare__json_set_object(root, NULL);
    pare__json_set_string(entry, "pare", pare_version());
    pare__json_set_string(entry, "recipe", job->recipe_text);
    pare__json *sources = pare__json_set_object(entry, "sources");
    for (int64_t t = 0; t < job->count; t++) {
        pare__hex128(&job->digests[2 * t], hex);
        pare__json_set_string(sources, job->tasks[t].out.name, hex);
    }
    pare_status status = pare__json_dump(root, 0, false, text);
    pare__json_free(&root);
    if (status != PARE_OK)
        pare__trail(__func__);
    return status;
}
