/* quant.c - the table of quantisers, and the spelling of scale searches. */
#include "quant_impl.h"

#include "base/check.h"
#include "base/text.h"

#include <string.h>

static const pare_quant_method *const methods[] = {
    &pare__quant_rtn, &pare__quant_imatrix,     &pare__quant_gptq,
    &pare__quant_awq, &pare__quant_smoothquant, NULL,
};

const pare_quant_method *const *pare_quant_methods(void)
{
    return methods;
}

const pare_quant_method *pare_quant_find(const char *name)
{
    for (size_t i = 0; methods[i]; i++)
        if (strcmp(methods[i]->name, name) == 0)
            return methods[i];
    return NULL;
}

static const char *const searches[] = {
    [PARE_SCALE_ABSMAX] = "absmax", [PARE_SCALE_MSE] = "mse", NULL};

pare_status pare_scale_search_parse(const char *text, pare_scale_search *search)
{
    PARE_REQUIRE(text && search, PARE_ERR_ARGUMENT, "scale: NULL argument");
    for (int i = 0; searches[i]; i++)
        if (strcmp(text, searches[i]) == 0) {
            *search = (pare_scale_search)i;
            return PARE_OK;
        }
    PARE_REQUIRE(strncmp(text, "percentile:", 11) != 0 && strcmp(text, "kl") != 0,
                 PARE_ERR_ARGUMENT, "scale \"%s\" is not in this version: use absmax or mse", text);
    const char *near = pare__nearest(text, searches);
    PARE_FAIL(PARE_ERR_ARGUMENT, "scale \"%s\" is neither absmax nor mse%s%s%s", text,
              near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

const char *pare_scale_search_name(pare_scale_search search)
{
    return searches[search];
}
