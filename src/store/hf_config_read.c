/* hf_config_read.c - what a config.json's quantization_config says about one module:
 * compressed-tensors' groups with their targets, or bitsandbytes. */
#include "store_impl.h"

#include <string.h>

/* ---- targets --------------------------------------------------------------------------------- */

/* How a target can name a module, the most certain first. */
typedef enum pass { BY_NAME, BY_PATTERN, BY_CLASS, PASSES } pass;

static pare_status target_matches(const char *target, const char *module, pass how, bool *match)
{
    bool pattern = strncmp(target, "re:", 3) == 0;
    *match = false;
    if (how == BY_PATTERN && pattern)
        return pare__re_match(target + 3, module, match);
    if (how == BY_NAME && !pattern)
        *match = strcmp(target, module) == 0;
    if (how == BY_CLASS)
        *match = strcmp(target, "Linear") == 0;
    return PARE_OK;
}

static pare_status listed(const pare__json *list, const char *module, pass how, bool *match)
{
    *match = false;
    for (size_t i = 0; i < pare__json_size(list) && !*match; i++) {
        const char *target = pare__json_string(pare__json_at(list, i));
        PARE_REQUIRE(target, PARE_ERR_DAMAGED, "quantization_config: target %zu is no string", i);
        PARE_TRY(target_matches(target, module, how, match));
    }
    return PARE_OK;
}

/* The group that a module belongs to; NULL if none does. */
static pare_status find_group(const pare__json *config, const char *module,
                              const pare__json **group)
{
    bool match = false;
    *group = NULL;
    for (pass how = BY_NAME; how < BY_CLASS; how++) {
        PARE_TRY(listed(pare__json_get(config, "ignore"), module, how, &match));
        if (match)
            return PARE_OK;
    }
    const pare__json *groups = pare__json_get(config, "config_groups"), *one;
    for (pass how = BY_NAME; how < PASSES; how++) {
        size_t at = 0;
        const char *name;
        while (pare__json_next(groups, &at, &name, &one)) {
            PARE_TRY(listed(pare__json_get(one, "targets"), module, how, &match));
            if (match) {
                *group = one;
                return PARE_OK;
            }
        }
    }
    return PARE_OK;
}

/* ---- arguments ------------------------------------------------------------------------------- */

static bool known_format(const char *format)
{
    static const char *const known[] = {"pack-quantized",  "int-quantized",   "float-quantized",
                                        "naive-quantized", "mixed-precision", "dense",
                                        "sparse-bitmask",  "fakequant",       NULL};
    for (size_t i = 0; known[i]; i++)
        if (strcmp(known[i], format) == 0)
            return true;
    return false;
}

static pare_status read_blocks(const pare__json *args, pare_scheme *scheme)
{
    const pare__json *node = pare__json_get(args, "block_structure");
    const char *text = pare__json_string(node);
    long long r = 0, c = 0;
    int64_t rows = 0, cols = 0;
    char rest;
    if (text && sscanf(text, "%9lldx%9lld%c", &r, &c, &rest) == 2)
        rows = r, cols = c;
    else if (!pare__json_int(pare__json_at(node, 0), &rows) ||
             !pare__json_int(pare__json_at(node, 1), &cols))
        rows = 0;
    PARE_REQUIRE(rows > 0 && cols > 0 && rows <= INT32_MAX && cols <= INT32_MAX, PARE_ERR_DAMAGED,
                 "quantization_config: strategy block without a block_structure [rows, columns]");
    scheme->granularity = PARE_PER_BLOCK;
    scheme->block_rows = rows;
    scheme->block_cols = cols;
    return PARE_OK;
}

static pare_status read_strategy(const pare__json *args, pare_scheme *scheme)
{
    const char *strategy = pare__json_string(pare__json_get(args, "strategy"));
    int64_t group = 0;
    bool grouped = pare__json_int(pare__json_get(args, "group_size"), &group);
    if (!strategy)
        strategy = !grouped ? "tensor" : group == -1 ? "channel" : "group";
    if (strcmp(strategy, "block") == 0)
        return read_blocks(args, scheme);
    if (strcmp(strategy, "group") == 0) {
        PARE_REQUIRE(group > 0 && group <= INT32_MAX, PARE_ERR_DAMAGED,
                     "quantization_config: strategy group with group_size %lld", (long long)group);
        scheme->granularity = PARE_PER_GROUP;
        scheme->block_rows = 1;
        scheme->block_cols = group;
        return PARE_OK;
    }
    bool tensor = strcmp(strategy, "tensor") == 0;
    PARE_REQUIRE(tensor || strcmp(strategy, "channel") == 0, PARE_ERR_UNSUPPORTED,
                 "quantization_config: weights of strategy '%s' are not read by this version",
                 strategy);
    scheme->granularity = tensor ? PARE_PER_TENSOR : PARE_PER_CHANNEL;
    return PARE_OK;
}

static pare_status read_type(const pare__json *args, pare_scheme *scheme)
{
    const char *type = pare__json_string(pare__json_get(args, "type"));
    int64_t bits = 8;
    bool symmetric = true;
    pare__json_int(pare__json_get(args, "num_bits"), &bits);
    pare__json_bool(pare__json_get(args, "symmetric"), &symmetric);
    bool integer = !type || strcmp(type, "int") == 0;
    bool e4m3 = type && strcmp(type, "float") == 0 && bits == 8 && symmetric;
    PARE_REQUIRE(
        (integer && bits >= 2 && bits <= 8) || e4m3, PARE_ERR_UNSUPPORTED,
        "quantization_config: weights of type %s with %lld bits are not read by this version",
        type ? type : "int", (long long)bits);
    scheme->type = e4m3 ? PARE_QUANT_E4M3 : PARE_QUANT_INT;
    scheme->bits = (int)bits;
    scheme->asymmetric = !symmetric;
    return PARE_OK;
}

static pare_status read_activation(const pare__json *args, pare_scheme *scheme)
{
    if (pare__json_is_null(args))
        return PARE_OK;
    int64_t bits = 8;
    bool dynamic = false, symmetric = true;
    pare__json_int(pare__json_get(args, "num_bits"), &bits);
    pare__json_bool(pare__json_get(args, "dynamic"), &dynamic);
    pare__json_bool(pare__json_get(args, "symmetric"), &symmetric);
    PARE_REQUIRE(bits == 8, PARE_ERR_UNSUPPORTED,
                 "quantization_config: activations of %lld bits are not read by this version",
                 (long long)bits);
    PARE_REQUIRE(dynamic || symmetric, PARE_ERR_UNSUPPORTED,
                 "quantization_config: static activations with zero points are not read by this "
                 "version");
    scheme->activation = dynamic ? PARE_ACT_DYNAMIC : PARE_ACT_STATIC;
    return PARE_OK;
}

static pare_status read_group(const pare__json *config, const pare__json *group,
                              pare_scheme *scheme)
{
    const pare__json *args = pare__json_get(group, "weights");
    if (pare__json_is_null(args))
        return PARE_OK;
    const char *format = pare__json_string(pare__json_get(group, "format"));
    if (!format)
        format = pare__json_string(pare__json_get(config, "format"));
    PARE_REQUIRE(!format || known_format(format), PARE_ERR_UNSUPPORTED,
                 "quantization_config: the format '%s' is not read by this version", format);
    PARE_TRY(read_type(args, scheme));
    PARE_TRY(read_strategy(args, scheme));
    return read_activation(pare__json_get(group, "input_activations"), scheme);
}

static pare_status read_bitsandbytes(const pare__json *config, pare_scheme *scheme)
{
    bool four = false, twice = false;
    const char *type = pare__json_string(pare__json_get(config, "bnb_4bit_quant_type"));
    pare__json_bool(pare__json_get(config, "load_in_4bit"), &four);
    pare__json_bool(pare__json_get(config, "bnb_4bit_use_double_quant"), &twice);
    PARE_REQUIRE(four && type && strcmp(type, "nf4") == 0, PARE_ERR_UNSUPPORTED,
                 "quantization_config: of bitsandbytes only 4-bit nf4 is read by this version");
    *scheme = (pare_scheme){.type = PARE_QUANT_NF4,
                            .bits = 4,
                            .granularity = PARE_PER_GROUP,
                            .block_rows = 1,
                            .block_cols = 64,
                            .double_quant = twice};
    return PARE_OK;
}

pare_status pare__hf_config_scheme(const pare__json *config, const char *module,
                                   pare_scheme *scheme)
{
    *scheme = (pare_scheme){0};
    const pare__json *quantization = pare__json_get(config, "quantization_config"), *group;
    if (pare__json_is_null(quantization))
        quantization = pare__json_get(config, "compression_config");
    if (pare__json_is_null(quantization))
        return PARE_OK;
    const char *method = pare__json_string(pare__json_get(quantization, "quant_method"));
    if (method && strcmp(method, "bitsandbytes") == 0)
        return read_bitsandbytes(quantization, scheme);
    PARE_REQUIRE(!method || strcmp(method, "compressed-tensors") == 0, PARE_ERR_UNSUPPORTED,
                 "quantization_config: the method '%s' is not read by this version; only "
                 "compressed-tensors and bitsandbytes are",
                 method);
    PARE_TRY(find_group(quantization, module, &group));
    return group ? read_group(quantization, group, scheme) : PARE_OK;
}
