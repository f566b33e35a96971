/* codec.c - which codec holds an entry, and what every codec's parts have in common. */
#include "store_impl.h"

#include "pare/ops.h"

#include <string.h>

static const pare__codec *const codecs[] = {&pare__codec_dense, &pare__codec_pack,
                                            &pare__codec_int,   &pare__codec_float,
                                            &pare__codec_nf4,   &pare__codec_sparse};

const pare__codec *pare__codec_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++)
        if (strcmp(codecs[i]->name, name) == 0)
            return codecs[i];
    return NULL;
}

/* What --to may name, and the codec that it asks for; "" and "int-quantized" are decided by the
 * scheme. */
static const struct {
    const char *option;
    const pare__codec *codec;
} options[] = {{"pack-quantized", &pare__codec_pack},   {"int-quantized", NULL},
               {"float-quantized", &pare__codec_float}, {"nf4", &pare__codec_nf4},
               {"sparse-bitmask", &pare__codec_sparse}, {"", NULL}};

static const pare__codec *natural(const pare_entry *entry, const char *option)
{
    const pare_scheme *scheme = &entry->scheme;
    if (entry->form == PARE_FORM_SPARSE)
        return &pare__codec_sparse;
    if (entry->form == PARE_FORM_DENSE || scheme->type == PARE_QUANT_NONE)
        return &pare__codec_dense;
    if (scheme->type == PARE_QUANT_E4M3)
        return &pare__codec_float;
    if (scheme->type == PARE_QUANT_NF4)
        return &pare__codec_nf4;
    bool bytes = scheme->activation != PARE_ACT_NONE || strcmp(option, "int-quantized") == 0;
    return scheme->bits == 8 && bytes ? &pare__codec_int : &pare__codec_pack;
}

pare_status pare__codec_for(const pare_entry *entry, const char *format_option,
                            const pare__codec **codec)
{
    const char *option = format_option ? format_option : "";
    *codec = natural(entry, option);
    size_t count = sizeof options / sizeof *options, i = 0;
    while (i < count && strcmp(options[i].option, option) != 0)
        i++;
    PARE_REQUIRE(i < count, PARE_ERR_ARGUMENT,
                 "'%s' is no format for quantised tensors: use pack-quantized, int-quantized, "
                 "float-quantized, nf4 or sparse-bitmask",
                 option);
    const pare__codec *wanted = options[i].codec;
    if (!wanted || entry->form != PARE_FORM_QUANT || wanted == &pare__codec_sparse)
        return PARE_OK;
    if (wanted == &pare__codec_pack && *codec == &pare__codec_int)
        *codec = wanted;
    char scheme[32];
    PARE_REQUIRE(*codec == wanted, PARE_ERR_ARGUMENT,
                 "%s: format %s cannot hold scheme %s; leave the format out", entry->name, option,
                 pare_scheme_text(&entry->scheme, scheme, sizeof scheme));
    return PARE_OK;
}

int64_t pare__nested_rows(const pare_entry *entry)
{
    if (!entry->scheme.double_quant)
        return 1;
    pare_blocks blocks = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols);
    int64_t rows = PARE_NESTED_BLOCK; /* a power of two: halved as long as rows make whole blocks */
    while (rows > 1 && rows / 2 * (blocks.across % PARE_NESTED_BLOCK) % PARE_NESTED_BLOCK == 0)
        rows /= 2;
    return rows;
}

int64_t pare__align_rows(const pare__codec *codec, const pare_entry *entry)
{
    if (entry->form != PARE_FORM_QUANT)
        return codec->align_rows;
    if (entry->scheme.double_quant)
        return pare__nested_rows(entry);
    int64_t block = pare_scheme_blocks(&entry->scheme, entry->rows, entry->cols).block_rows;
    return block > 1 ? block : codec->align_rows;
}

int64_t pare__rows_aligned(const pare__codec *codec, const pare_entry *entry, int64_t first)
{
    return first - first % pare__align_rows(codec, entry);
}

bool pare__is_native(const pare__format *format)
{
    return format == &pare__format_h5;
}

pare_status pare__part_name(const char *entry, const pare__part_spec *spec, bool h5, char **name)
{
    pare__text text = {0};
    if (h5) {
        pare__text_add(&text, "tensors/%s", entry);
        if (spec->h5)
            pare__text_add(&text, "/%s", spec->h5);
    } else {
        const char *suffix = spec->safetensors;
        size_t length = strlen(entry);
        if (*suffix == '-') {
            suffix++;
            if (length >= 7 && strcmp(entry + length - 7, ".weight") == 0)
                length -= 7;
        }
        pare__text_bytes(&text, entry, length);
        pare__text_add(&text, "%s", suffix);
    }
    return pare__text_take(&text, name);
}

pare_status pare__codec_parts(const pare__codec *codec, const pare_entry *entry, bool h5,
                              pare__part_spec spec[PARE_MAX_PARTS], int64_t bytes[PARE_MAX_PARTS],
                              int *count)
{
    memset(spec, 0, PARE_MAX_PARTS * sizeof *spec);
    PARE_TRY(codec->parts(entry, h5, spec, count));
    for (int i = 0; i < *count; i++) {
        int64_t size;
        PARE_TRY(pare_shape_size(spec[i].dtype, spec[i].rank, spec[i].shape, NULL, &size));
        if (bytes)
            bytes[i] = size;
    }
    return PARE_OK;
}
